//! The stories: real clusters, archived, damaged, destroyed and brought back by the real programs.
//!
//! One module tells about one promise; every test stands alone, and all of them run side by side.

mod kit;
