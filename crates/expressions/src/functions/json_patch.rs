//! Paths of JSON patches.

use super::{Effort, Function, function, str_at, texts};
use crate::types::Type;
use crate::value::Val;

pub(crate) const ALL: &[Function] = &[function(
    "jsonpatch.escapeKey",
    false,
    1,
    |t| texts(t, Type::string()),
    |a| Ok(Val::text(str_at(a, 0)?.replace('~', "~0").replace('/', "~1"))),
)
.costs(Effort::ReadFirst)];
