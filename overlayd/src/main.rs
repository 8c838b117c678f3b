//! Not written yet: the shell.
fn main() {}
