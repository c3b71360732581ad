//! The proof that two databases hold the same rows.
//!
//! A row is hashed with all its columns, in one encoding for both engines. The hash of a table is over the
//! hashes of its rows in ascending order: the order of text keys is each engine's own, that of hashes is not.

use sha2::{Digest, Sha256};

use super::catalog::Table;
use super::{CopyError, Step};
use crate::store::engine::{Cell, Connection};

/// What a table holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableProof {
    /// The table.
    pub table: String,
    /// Its rows.
    pub rows: u64,
    /// SHA-256 over its name, its columns and its rows.
    pub sha256: [u8; 32],
}

/// Reads all rows of a table through one connection.
pub(super) async fn of(
    table: &Table,
    connection: &mut Connection,
    step: &mut impl FnMut(Step<'_>),
) -> Result<TableProof, CopyError> {
    let mut rows: Vec<[u8; 32]> = Vec::new();
    let mut page = table.page(connection, None).await?;
    while let Some(last) = page.last() {
        rows.extend(page.iter().map(|row| row_hash(row)));
        step(Step::Compared {
            table: &table.name,
            rows: rows.len(),
        });
        page = table.page(connection, Some(last)).await?;
    }
    rows.sort_unstable();
    let mut hasher = Sha256::new();
    let header = std::iter::once(&table.name).chain(&table.columns);
    for name in header {
        update(&mut hasher, &Cell::Text(name.clone()));
    }
    for row in &rows {
        hasher.update(row);
    }
    Ok(TableProof {
        table: table.name.clone(),
        rows: u64::try_from(rows.len()).unwrap_or(u64::MAX),
        sha256: hasher.finalize().into(),
    })
}

fn row_hash(row: &[Cell]) -> [u8; 32] {
    let mut hasher = Sha256::new();
    for cell in row {
        update(&mut hasher, cell);
    }
    hasher.finalize().into()
}

/// A tag, and behind it 8 bytes of a number, or the length of a text in 8 bytes and the text.
fn update(hasher: &mut Sha256, cell: &Cell) {
    let mut sized = |tag: u8, bytes: &[u8]| {
        hasher.update([tag]);
        hasher.update(u64::try_from(bytes.len()).unwrap_or(u64::MAX).to_be_bytes());
        hasher.update(bytes);
    };
    match cell {
        Cell::Null => hasher.update([0]),
        Cell::Int(value) => {
            hasher.update([1]);
            hasher.update(value.to_be_bytes());
        }
        Cell::Text(text) => sized(2, text.as_bytes()),
        Cell::Bytes(bytes) => sized(3, bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::{Cell, row_hash};

    #[test]
    fn rows_that_differ_have_hashes_that_differ() {
        let text = |text: &str| Cell::Text(text.to_owned());
        let rows = [
            vec![],
            vec![Cell::Null],
            vec![Cell::Null, Cell::Null],
            vec![Cell::Int(0)],
            vec![Cell::Int(-1)],
            vec![text("")],
            vec![Cell::Bytes(vec![])],
            vec![text("ab"), text("c")],
            vec![text("a"), text("bc")],
            vec![text("a"), Cell::Bytes(b"bc".to_vec())],
        ];
        for (at, row) in rows.iter().enumerate() {
            for other in rows.iter().skip(at + 1) {
                assert_ne!(row_hash(row), row_hash(other), "{row:?} {other:?}");
            }
        }
    }
}
