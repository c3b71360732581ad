#![expect(clippy::unwrap_used, reason = "tests")]

use super::{
    AROUND, Code, FOR_GOOD, KEYS, Keys, Malformed, code_at, pause, recovery_text, step_of, wait,
};
use crate::clock::Timestamp;
use crate::domain::{EnrolmentId, ProfileId};
use aws_lc_rs::hmac;
use zeroize::Zeroizing;

/// The secret of RFC 6238, appendix B.
const RFC_SECRET: &[u8; 20] = b"12345678901234567890";

static_assertions::assert_not_impl_any!(Keys: std::fmt::Debug, Clone, std::fmt::Display);
static_assertions::assert_not_impl_any!(Code: std::fmt::Debug, Clone, std::fmt::Display);

fn keys() -> Keys {
    let mut bytes = RFC_SECRET.to_vec();
    bytes.resize(KEYS, 7);
    Keys::from_bytes(Zeroizing::new(bytes)).unwrap()
}

const fn at(seconds: i64) -> Timestamp {
    Timestamp::from_micros(seconds * 1_000_000)
}

fn shown(keys: &Keys, seconds: i64) -> u32 {
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, keys.parts().0);
    code_at(&key, step_of(at(seconds)))
}

fn number(text: &str) -> Option<u32> {
    match Code::parse(text) {
        Ok(Code::Shown(number)) => Some(*number),
        _ => None,
    }
}

fn recovery(text: &str) -> Option<[u8; 10]> {
    match Code::parse(text) {
        Ok(Code::Recovery(code)) => Some(*code),
        _ => None,
    }
}

#[test]
fn a24_codes_are_those_of_rfc_6238() {
    let keys = keys();
    // Appendix B has eight digits; six are the last six.
    for (time, code) in [
        (59, 287_082),
        (1_111_111_109, 81_804),
        (1_111_111_111, 50_471),
        (1_234_567_890, 5_924),
        (2_000_000_000, 279_037),
        (20_000_000_000, 353_130),
    ] {
        assert_eq!(shown(&keys, time), code, "{time}");
    }
}

#[test]
fn a24_the_present_step_and_its_neighbours_count_and_no_other() {
    let keys = keys();
    let now = 1_795_338_015;
    let step = step_of(at(now));
    for off in -AROUND..=AROUND {
        let matching = keys.matching(shown(&keys, now + off * 30), at(now));
        let expected = (off.abs() <= 1).then_some(step + off);
        assert_eq!(matching.step(at(now)), expected, "{off}");
    }
    assert_eq!(keys.matching(1_000_000, at(now)).step(at(now)), None);
}

#[test]
fn a24_what_counts_is_the_time_of_the_operation() {
    let keys = keys();
    let now = 1_795_338_015;
    let matching = keys.matching(shown(&keys, now), at(now));
    let step = step_of(at(now));
    for (later, expected) in [
        (-60, None),
        (-30, Some(step)),
        (14, Some(step)),
        (15, Some(step)),
        (44, Some(step)),
        (45, None),
        (600, None),
    ] {
        assert_eq!(matching.step(at(now + later)), expected, "{later}");
    }
}

#[test]
fn a24_what_is_neither_six_digits_nor_a_recovery_code_is_malformed() {
    assert_eq!(number("000000"), Some(0));
    assert_eq!(number("091234"), Some(91_234));
    for text in [
        "",
        "12345",
        "1234567",
        "12345a",
        " 12345",
        "+12345",
        "-12345",
        "１２３４５６",
        "123 456",
        "ABCDABCDABCDABCD",
        "ABCD-ABCD-ABCD-ABC",
        "ABCD-ABCD-ABCD-ABCDE",
        "ABCD_ABCD_ABCD_ABCD",
        "UBCD-ABCD-ABCD-ABCD",
        "-ABCDABCD-ABCD-ABC-",
    ] {
        assert_eq!(Code::parse(text).err(), Some(Malformed), "{text:?}");
    }
}

#[test]
fn a_recovery_code_is_read_as_it_is_written_down() {
    let code = [0xff, 0, 1, 2, 3, 4, 5, 6, 7, 0x80];
    let text = recovery_text(&code);
    assert_eq!(text.as_str(), "ZW00-20G3-0G2G-C1W0");
    assert_eq!(text.len(), 19);
    assert_eq!(recovery(&text), Some(code));
    assert_eq!(recovery(&text.to_lowercase()), Some(code));
    assert_eq!(recovery("0000-0000-0000-0000"), Some([0; 10]));
    assert_eq!(recovery("oooo-oooo-oooo-oooo"), Some([0; 10]));
    assert_eq!(
        recovery("1111-1111-1111-1111"),
        recovery("ILil-LIli-1111-1111")
    );
    assert_eq!(recovery("ZZZZ-ZZZZ-ZZZZ-ZZZZ"), Some([0xff; 10]));
}

#[test]
fn what_an_authenticator_is_told() {
    let profile = ProfileId::parse("01a2b3c4-0000-7000-8000-000000000000").unwrap();
    assert_eq!(
        keys().otpauth("countersign", profile).as_str(),
        "otpauth://totp/countersign:01a2b3c4?secret=GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ&issuer=countersign\
         &algorithm=SHA1&digits=6&period=30"
    );
}

#[test]
fn a_recovery_code_is_stored_for_one_enrolment_under_its_own_key() {
    let (one, other) = (EnrolmentId::generate(), EnrolmentId::generate());
    let mac = keys().recovery_mac(one, &[1; 10]);
    assert_eq!(mac, keys().recovery_mac(one, &[1; 10]));
    assert_ne!(mac, keys().recovery_mac(other, &[1; 10]));
    assert_ne!(mac, keys().recovery_mac(one, &[2; 10]));
    let another = Keys::from_bytes(Zeroizing::new(vec![9; KEYS])).unwrap();
    assert_ne!(mac, another.recovery_mac(one, &[1; 10]));
    assert!(Keys::from_bytes(Zeroizing::new(vec![9; KEYS - 1])).is_none());
}

#[test]
fn a24_every_fifth_wrong_code_in_a_row_pauses_and_each_pause_is_twice_as_long() {
    let now = at(1_795_338_000);
    let minutes = |in_a_row| {
        let until = pause(in_a_row, 0, now)?;
        Some((until.as_seconds() - now.as_seconds()) / 60)
    };
    for in_a_row in [0, 1, 2, 3, 4, 6, 9, 11, 14, 19] {
        assert_eq!(minutes(in_a_row), None, "{in_a_row}");
    }
    for (in_a_row, expected) in [
        (5, 15),
        (10, 30),
        (15, 60),
        (20, 120),
        (35, 960),
        (40, 1440),
        (45, 1440),
        (4_294_967_295, 1440),
    ] {
        assert_eq!(minutes(in_a_row), Some(expected), "{in_a_row}");
    }
}

#[test]
fn a24_the_twentieth_wrong_code_in_a_day_locks_for_good() {
    let now = at(1_795_338_000);
    assert_eq!(pause(1, 19, now), None);
    assert_eq!(pause(1, 20, now), Some(FOR_GOOD));
    assert_eq!(pause(5, 21, now), Some(FOR_GOOD));
    assert_eq!(FOR_GOOD.to_rfc3339(), "9999-01-01T00:00:00Z");
    assert_eq!(wait(FOR_GOOD, now), 86_400);
}

#[test]
fn the_wait_is_whole_seconds_and_never_too_short() {
    let now = at(100);
    assert_eq!(wait(at(100), now), 1);
    assert_eq!(wait(at(1000), now), 900);
    assert_eq!(wait(Timestamp::from_micros(100_000_001), now), 1);
    assert_eq!(wait(Timestamp::from_micros(101_000_001), now), 2);
    assert_eq!(wait(at(0), now), 1);
}
