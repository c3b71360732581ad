//! The table, printed row by row as the figures come.

use crate::bare::Bare;
use crate::machine;

/// What later rows need from earlier ones.
pub(crate) struct Table {
    server: Vec<(&'static str, f64)>,
}

impl Table {
    /// Prints the head.
    pub(crate) fn new() -> Self {
        println!("{}", machine::describe());
        println!("{:<48} {:>14}   target", "", "measured");
        Self { server: vec![] }
    }

    /// Prints a figure. `target` is empty where there is none.
    pub(crate) fn row(&mut self, what: &str, value: f64, unit: &str, target: &str) {
        let value = format!("{value:.2} {unit}");
        println!("{what:<48} {value:>14}   {target}");
    }

    /// Prints the server's CPU per signature, in milliseconds; [`Table::ratio`] needs it.
    pub(crate) fn server(&mut self, when: &'static str, milliseconds: f64) {
        self.server.push((when, milliseconds));
        let what = format!("server CPU per signature, {when}");
        self.row(&what, milliseconds, "ms", "");
    }

    /// Compares the server with the bare protocol.
    pub(crate) fn ratio(&mut self, bare: &[Bare]) {
        let of =
            |party: fn(&Bare) -> f64| machine::mean(&bare.iter().map(party).collect::<Vec<_>>());
        let (p1, p2) = (of(|bare| bare.p1), of(|bare| bare.p2));
        self.row("bare protocol, P1 CPU per signature", p1, "ms", "");
        self.row("bare protocol, P2 CPU per signature", p2, "ms", "");
        for (when, server) in self.server.clone() {
            self.row(
                &format!("server / bare P2, {when}"),
                server / p2,
                "",
                "<= 2",
            );
        }
    }
}
