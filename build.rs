//! Migrations are compiled in: a new one must make cargo compile the store again.

fn main() {
    println!("cargo:rerun-if-changed=migrations");
}
