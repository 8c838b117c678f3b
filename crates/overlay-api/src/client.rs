//! A client for the Unix socket.
