//! forkpy: Python in persistent, watched sessions, for MCP clients. This page is the map.

pub mod embed;
pub mod protocol;
pub mod sys;
pub mod worker;
pub mod zygote;
