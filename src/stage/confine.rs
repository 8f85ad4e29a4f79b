//! What the program may not do.
