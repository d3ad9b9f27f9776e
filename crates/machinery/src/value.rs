//! value
pub enum Key{} pub enum Map{} pub enum Value{}
