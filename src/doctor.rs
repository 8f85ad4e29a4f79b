//! What this machine can do, tried for real.
