//! The command line: translates, prints, never acts.
