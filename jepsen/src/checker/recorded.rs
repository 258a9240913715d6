//! Checkers on histories of real runs: good as recorded, and not after one thing in them was damaged.
