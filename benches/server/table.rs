//! The table that is printed.

use crate::bare::Bare;
use crate::machine;

/// Rows in the order in which they were measured.
#[derive(Default)]
pub(crate) struct Table {
    rows: Vec<(String, String, String)>,
    server: f64,
}

impl Table {
    /// Adds a figure. `target` is empty where there is none.
    pub(crate) fn row(&mut self, what: &str, value: f64, unit: &str, target: &str) {
        let value = format!("{value:.2} {unit}");
        self.rows.push((what.to_owned(), value, target.to_owned()));
    }

    /// Adds the server's CPU per signature, in milliseconds; [`Table::ratio`] needs it.
    pub(crate) fn server(&mut self, milliseconds: f64) {
        self.server = milliseconds;
        self.row("server CPU per signature", milliseconds, "ms", "");
    }

    /// Compares the server with the bare protocol.
    pub(crate) fn ratio(&mut self, bare: &[Bare]) {
        let of =
            |party: fn(&Bare) -> f64| machine::mean(&bare.iter().map(party).collect::<Vec<_>>());
        let (p1, p2) = (of(|bare| bare.p1), of(|bare| bare.p2));
        self.row("bare protocol, P1 CPU per signature", p1, "ms", "");
        self.row("bare protocol, P2 CPU per signature", p2, "ms", "");
        self.row("server / bare P2", self.server / p2, "", "<= 2");
    }

    /// Prints all rows.
    pub(crate) fn print(&self) {
        println!("\n{}", machine::describe());
        println!("{:<46} {:>12}   target", "", "measured");
        for (what, value, target) in &self.rows {
            println!("{what:<46} {value:>12}   {target}");
        }
    }
}
