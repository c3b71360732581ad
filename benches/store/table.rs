//! The table, printed row by row as the figures come.

use crate::machine;

/// Prints the head.
pub(crate) fn head() {
    println!("{}", machine::describe());
    println!("{:<58} {:>14}   target", "", "measured");
}

/// Prints a figure. `target` is empty where there is none.
pub(crate) fn row(what: &str, value: f64, unit: &str, target: &str) {
    let value = format!("{value:.2} {unit}");
    println!("{what:<58} {value:>14}   {target}");
}
