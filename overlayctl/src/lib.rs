//! What of `overlayctl` stands alone, as a library for its binary and for tests
//! elsewhere: the reader of files that somebody else wrote.

pub mod import_file;
