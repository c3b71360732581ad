//! The fuzz targets, in one program: `COUNTERSIGN_FUZZ_TARGET` says which. Run by `scripts/fuzz.sh`.
//!
//! An input is not a message but a short program that alters an honest one (`mpc/src/mutated_tests`, `edit.rs`): so most
//! inputs get past the first check, and the corpora are a few bytes each.
#![no_main]

mod edit;
mod texts;

use std::sync::{LazyLock, Mutex};

use countersign_mpc::mutated_tests::{Stage, Target};
use libfuzzer_sys::fuzz_target;

type Run = Box<dyn FnMut(&[u8]) + Send>;

static RUN: LazyLock<Mutex<Run>> = LazyLock::new(|| {
    let name = std::env::var("COUNTERSIGN_FUZZ_TARGET").unwrap_or_default();
    let protocol = Target::ALL.into_iter().find(|target| target.name() == name);
    let run = match protocol {
        Some(target) => {
            let mut stage = Stage::new(target);
            let run: Run = Box::new(move |program| {
                stage.run(program);
            });
            Some(run)
        }
        None => texts::named(&name),
    };
    Mutex::new(run.unwrap_or_else(|| {
        let names = Target::ALL.map(Target::name);
        panic!(
            "COUNTERSIGN_FUZZ_TARGET={name}: it is one of {names:?} and {:?}",
            texts::NAMES
        )
    }))
});

fuzz_target!(init: LazyLock::force(&RUN), |program: &[u8]| {
    (RUN.lock().expect("the first failure ends the process"))(program);
});
