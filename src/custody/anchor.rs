//! The anchor: how many bans and audit links there are at least, and the hash at the end of each, kept where whoever
//! can put the database back cannot put it back too.
//!
//! It is a lower bound: the database must contain it, and may be ahead of it.

use std::fmt;

use crate::domain::{ChainHead, EnvironmentId};

mod place;

pub use place::Place;

/// First line of an anchor: format and version.
const MAGIC: &str = "countersign-anchor/1";

/// How far the database of an environment has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Anchor {
    /// The list of bans.
    pub bans: ChainHead,
    /// The audit chain.
    pub audit: ChainHead,
}

/// Why an anchor cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum AnchorError {
    /// There is none.
    #[error(
        "there is no anchor of this environment: connect the token (or name the witness file) that has it. If this \
         environment is older than anchors, or the token is a new one, see countersignd anchor make --help"
    )]
    Missing,
    /// Something is not one we write.
    #[error(
        "the anchor is not one this version writes: remove what does not belong there from the token or the witness file"
    )]
    Unreadable,
    /// Two anchors give one count two hashes.
    #[error(
        "two anchors disagree about the {what} at {count}: two databases were served as this environment. Stop every \
         countersignd of it and see countersignd anchor show"
    )]
    Split {
        /// Bans or links of the audit chain.
        what: &'static str,
        /// The count for which there are two hashes.
        count: i64,
    },
    /// The token did not answer.
    #[error("the token does not give or take the anchor")]
    Hsm(#[from] countersign_hsm::HsmError),
    /// The witness file cannot be used.
    #[error("the witness file {} cannot be used", path.display())]
    Witness {
        /// The file.
        path: std::path::PathBuf,
        /// What the system said.
        #[source]
        cause: std::io::Error,
    },
}

impl Anchor {
    /// The text that is stored.
    #[must_use]
    pub fn encode(&self, environment: &EnvironmentId) -> String {
        format!("{MAGIC}\n{environment}\n{}\n{}\n", self.bans, self.audit)
    }

    /// Parses what [`Anchor::encode`] writes for this environment, and nothing else.
    #[must_use]
    pub fn parse(text: &[u8], environment: &EnvironmentId) -> Option<Self> {
        let text = std::str::from_utf8(text).ok()?;
        let mut lines = text.lines().skip(2);
        let anchor = Self {
            bans: head(lines.next()?)?,
            audit: head(lines.next()?)?,
        };
        (anchor.encode(environment) == text).then_some(anchor)
    }

    /// The anchor that several make together: of each count the highest.
    ///
    /// # Errors
    /// [`AnchorError::Missing`] without any, [`AnchorError::Split`] for two hashes of one count,
    /// [`AnchorError::Unreadable`].
    pub fn of<'a>(
        texts: impl IntoIterator<Item = &'a [u8]>,
        environment: &EnvironmentId,
    ) -> Result<Self, AnchorError> {
        let mut found: Option<Self> = None;
        for text in texts {
            let next = Self::parse(text, environment).ok_or(AnchorError::Unreadable)?;
            found = Some(found.map_or(Ok(next), |found| found.and(&next))?);
        }
        found.ok_or(AnchorError::Missing)
    }

    /// The higher count of each, with its hash.
    ///
    /// # Errors
    /// [`AnchorError::Split`].
    pub fn and(&self, other: &Self) -> Result<Self, AnchorError> {
        Ok(Self {
            bans: higher("bans", &self.bans, &other.bans)?,
            audit: higher("audit links", &self.audit, &other.audit)?,
        })
    }

    /// Whether `other` adds nothing and is not the same.
    fn dominates(&self, other: &Self) -> bool {
        self != other
            && self.bans.count >= other.bans.count
            && self.audit.count >= other.audit.count
    }
}

impl fmt::Display for Anchor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (bans, links) = (self.bans.count, self.audit.count);
        write!(f, "{bans} bans and {links} links of the audit chain")
    }
}

fn higher(what: &'static str, one: &ChainHead, two: &ChainHead) -> Result<ChainHead, AnchorError> {
    if one.count == two.count && one.hash != two.hash {
        let count = one.count;
        return Err(AnchorError::Split { what, count });
    }
    Ok(if one.count >= two.count { *one } else { *two })
}

fn head(line: &str) -> Option<ChainHead> {
    let (count, hash) = line.split_once(' ')?;
    let mut head = ChainHead {
        count: count.parse().ok().filter(|count| *count >= 0)?,
        hash: [0; 32],
    };
    hex::decode_to_slice(hash, &mut head.hash).ok()?;
    Some(head)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::{Anchor, AnchorError, ChainHead, EnvironmentId};

    const HERE: EnvironmentId = EnvironmentId([0xab; 32]);

    fn anchor(bans: i64, audit: i64) -> Anchor {
        let head = |count: i64| ChainHead {
            count,
            hash: [u8::try_from(count).unwrap(); 32],
        };
        Anchor {
            bans: head(bans),
            audit: head(audit),
        }
    }

    fn of(anchors: &[Anchor]) -> Result<Anchor, AnchorError> {
        let texts: Vec<String> = anchors.iter().map(|one| one.encode(&HERE)).collect();
        Anchor::of(texts.iter().map(String::as_bytes), &HERE)
    }

    #[test]
    fn an_anchor_has_one_spelling_and_belongs_to_one_environment() {
        let text = anchor(2, 30).encode(&HERE);
        let parse = |text: &str| Anchor::parse(text.as_bytes(), &HERE);
        assert_eq!(parse(&text), Some(anchor(2, 30)));
        for other in [
            text.trim_end().to_owned(),
            format!("{text}\n"),
            text.replace("/1", "/2"),
            text.replace("2 0202", "-2 0202"),
            text.replace("2 0202", "02 0202"),
            text.to_uppercase(),
            String::new(),
        ] {
            assert_eq!(parse(&other), None, "{other:?}");
        }
        assert_eq!(
            Anchor::parse(text.as_bytes(), &EnvironmentId([1; 32])),
            None
        );
    }

    #[test]
    fn several_anchors_count_as_the_highest_of_each() {
        assert_eq!(of(&[anchor(2, 10), anchor(1, 20)]).unwrap(), anchor(2, 20));
        assert_eq!(of(&[anchor(0, 0)]).unwrap(), anchor(0, 0));
        assert!(matches!(of(&[]), Err(AnchorError::Missing)));
    }

    #[test]
    fn a18_two_hashes_of_one_count_are_no_anchor() {
        let mut other = anchor(2, 10);
        other.bans.hash = [9; 32];
        let split = of(&[anchor(2, 10), other]);
        assert!(matches!(
            split,
            Err(AnchorError::Split {
                what: "bans",
                count: 2
            })
        ));
        let mut other = anchor(1, 10);
        other.audit.hash = [9; 32];
        assert!(of(&[anchor(2, 10), other]).is_err());
    }

    #[test]
    fn only_what_adds_nothing_is_dominated() {
        let one = anchor(2, 10);
        assert!(one.dominates(&anchor(1, 10)) && one.dominates(&anchor(2, 9)));
        for other in [anchor(2, 10), anchor(3, 9), anchor(1, 11)] {
            assert!(!one.dominates(&other));
        }
    }
}
