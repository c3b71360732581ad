//! Altering a text as a few bytes say.

/// Most alterations of one text.
const STEPS: usize = 8;

/// The bytes of a program; zeros follow its end.
pub struct Input<'a>(pub &'a [u8]);

impl<'a> Input<'a> {
    pub fn byte(&mut self) -> u8 {
        let (first, rest) = self.0.split_first().unwrap_or((&0, &[]));
        self.0 = rest;
        *first
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::from(u16::from_be_bytes([self.byte(), self.byte()])) % bound.max(1)
    }

    fn take(&mut self, length: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(length.min(self.0.len()));
        self.0 = rest;
        taken
    }
}

/// `honest` altered as `input` says.
pub fn edit(honest: &[u8], input: &mut Input<'_>) -> Vec<u8> {
    let mut text = honest.to_vec();
    for _ in 0..STEPS {
        if input.0.is_empty() {
            break;
        }
        let kind = input.byte() % 7;
        let at = input.below(text.len() + 1);
        let length = usize::from(input.byte() % 32);
        let end = (at + length).min(text.len());
        match kind {
            0 => {
                if let Some(byte) = text.get_mut(at) {
                    *byte = input.byte();
                }
            }
            1 => {
                if let Some(byte) = text.get_mut(at) {
                    *byte ^= 1 << (input.byte() % 8);
                }
            }
            2 => drop(text.splice(at..at, input.take(length).to_vec())),
            3 => drop(text.drain(at..end)),
            4 => {
                let twice = text[at..end].to_vec();
                drop(text.splice(at..at, twice));
            }
            5 => text.truncate(at),
            _ => text = input.take(usize::MAX).to_vec(),
        }
    }
    text
}

/// The same of a string; what is no UTF-8 any more becomes replacement characters.
pub fn edit_text(honest: &str, input: &mut Input<'_>) -> String {
    String::from_utf8_lossy(&edit(honest.as_bytes(), input)).into_owned()
}
