//! Services outside, good ones and those that mean ill: issuers of tokens, webhooks that know, decide or listen.

mod hostile;
mod issuers;
mod outside;
mod webhooks;
