//! Tests of the whole: the rules of the house, and a real node.

mod architecture;
