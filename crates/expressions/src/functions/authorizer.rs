//! `authorizer`: may somebody do something? Kubernetes' authorizer library.
//!
//! Evaluation does not wait for anybody. A question that has no answer yet is left in [`Questions`] and the evaluation
//! fails; whoever evaluates has it answered and evaluates again.

use super::{Effort, Function, function, is_opaque, is_string, no_overload, on_opaque, opaque, str_at};
use crate::types::Type;
use crate::value::{Opaque, Val};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;

pub(crate) const AUTHORIZER: &str = "kubernetes.authorization.Authorizer";
pub(crate) const RESOURCE: &str = "kubernetes.authorization.ResourceCheck";
const PATH: &str = "kubernetes.authorization.PathCheck";
const GROUP: &str = "kubernetes.authorization.GroupCheck";
const DECISION: &str = "kubernetes.authorization.Decision";

/// Asking is dear: an expression can do it twice.
const CHECK: u64 = 350_000;

/// May somebody do this?
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Question {
    /// Namespace and name of the service account to ask about instead of the request's user.
    pub service_account: Option<(String, String)>,
    pub verb: String,
    pub what: What,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum What {
    Path(String),
    Resource(Resource),
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Resource {
    pub group: String,
    pub resource: String,
    pub subresource: String,
    pub namespace: String,
    pub name: String,
    pub field_selector: String,
    pub label_selector: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answer {
    pub allowed: bool,
    pub reason: String,
    /// Why there is no real answer; empty if there is.
    pub error: String,
}

/// What was asked, and what has been answered.
#[derive(Debug, Default)]
pub struct Questions(Mutex<(HashMap<Question, Answer>, Vec<Question>)>);

impl Questions {
    /// The questions asked since, that have no answer.
    pub fn take_open(&self) -> Vec<Question> {
        std::mem::take(&mut self.0.lock().1)
    }

    pub fn answer(&self, question: Question, answer: Answer) {
        self.0.lock().0.insert(question, answer);
    }

    /// The variable `authorizer`.
    pub fn authorizer(self: &Arc<Self>) -> Val<'static> {
        opaque(Authorizer {
            asked: Arc::clone(self),
            service_account: None,
        })
    }

    /// The variable `authorizer.requestResource`.
    pub fn resource(self: &Arc<Self>, resource: Resource) -> Val<'static> {
        opaque(Check {
            asked: Arc::clone(self),
            service_account: None,
            what: What::Resource(resource),
        })
    }

    fn ask(&self, question: Question) -> Result<Answer, String> {
        let mut all = self.0.lock();
        if let Some(answer) = all.0.get(&question) {
            return Ok(answer.clone());
        }
        all.1.push(question);
        Err("the authorizer was not asked yet".to_owned())
    }
}

#[derive(Debug, Clone)]
struct Authorizer {
    asked: Arc<Questions>,
    service_account: Option<(String, String)>,
}

#[derive(Debug)]
struct Group {
    of: Authorizer,
    group: String,
}

#[derive(Debug)]
struct Check {
    asked: Arc<Questions>,
    service_account: Option<(String, String)>,
    what: What,
}

#[derive(Debug)]
struct Decision(Answer);

fn on(types: &[Type], receiver: &[&str], result: Type) -> Option<Type> {
    let (first, rest) = types.split_first()?;
    let fits = receiver.iter().any(|name| is_opaque(first, name));
    (fits && rest.iter().all(is_string)).then_some(result)
}

pub(crate) const ALL: &[Function] = &[
    function(
        "path",
        true,
        1,
        |t| on(t, &[AUTHORIZER], Type::Opaque(PATH)),
        |a| on_opaque("path", a),
    ),
    function(
        "group",
        true,
        1,
        |t| on(t, &[AUTHORIZER], Type::Opaque(GROUP)),
        |a| on_opaque("group", a),
    ),
    function(
        "serviceAccount",
        true,
        2,
        |t| on(t, &[AUTHORIZER], Type::Opaque(AUTHORIZER)),
        |a| on_opaque("serviceAccount", a),
    ),
    function(
        "resource",
        true,
        1,
        |t| on(t, &[GROUP], Type::Opaque(RESOURCE)),
        |a| on_opaque("resource", a),
    ),
    function("subresource", true, 1, narrowed, |a| on_opaque("subresource", a)),
    function("namespace", true, 1, narrowed, |a| on_opaque("namespace", a)),
    function("name", true, 1, narrowed, |a| on_opaque("name", a)),
    function("fieldSelector", true, 1, narrowed, |a| {
        on_opaque("fieldSelector", a)
    })
    .costs(Effort::ReadAll),
    function("labelSelector", true, 1, narrowed, |a| {
        on_opaque("labelSelector", a)
    })
    .costs(Effort::ReadAll),
    function(
        "check",
        true,
        1,
        |t| on(t, &[PATH, RESOURCE], Type::Opaque(DECISION)),
        |a| on_opaque("check", a),
    )
    .costs(Effort::Fixed(CHECK - 1)),
    function(
        "allowed",
        true,
        0,
        |t| on(t, &[DECISION], Type::Bool),
        |a| on_opaque("allowed", a),
    ),
    function(
        "errored",
        true,
        0,
        |t| on(t, &[DECISION], Type::Bool),
        |a| on_opaque("errored", a),
    ),
    function(
        "reason",
        true,
        0,
        |t| on(t, &[DECISION], Type::string()),
        |a| on_opaque("reason", a),
    ),
    function(
        "error",
        true,
        0,
        |t| on(t, &[DECISION], Type::string()),
        |a| on_opaque("error", a),
    ),
];

fn narrowed(types: &[Type]) -> Option<Type> {
    on(types, &[RESOURCE], Type::Opaque(RESOURCE))
}

fn not_blank(text: &str, what: &str) -> Result<String, String> {
    if text.trim().is_empty() {
        return Err(format!("{what} must not be empty"));
    }
    Ok(text.to_owned())
}

impl Authorizer {
    fn service_account(&self, namespace: &str, name: &str) -> Result<Self, String> {
        let wrong = machinery::names::dns1123_label(namespace);
        if let Some(why) = wrong.first() {
            return Err(format!("Invalid service account namespace: {why}"));
        }
        let wrong = machinery::names::dns1123_subdomain(name);
        if let Some(why) = wrong.first() {
            return Err(format!("Invalid service account name: {why}"));
        }
        Ok(Self {
            asked: Arc::clone(&self.asked),
            service_account: Some((namespace.to_owned(), name.to_owned())),
        })
    }
}

impl Opaque for Authorizer {
    fn type_name(&self) -> &'static str {
        AUTHORIZER
    }

    fn call<'a>(&self, name: &str, arguments: &[Val<'a>]) -> Option<Result<Val<'a>, String>> {
        let text = |at: usize| str_at(arguments, at);
        Some(match name {
            "path" => text(0).and_then(|path| not_blank(path, "path")).map(|path| {
                opaque(Check {
                    asked: Arc::clone(&self.asked),
                    service_account: self.service_account.clone(),
                    what: What::Path(path),
                })
            }),
            "group" => text(0).map(|group| {
                opaque(Group {
                    of: self.clone(),
                    group: group.to_owned(),
                })
            }),
            "serviceAccount" => {
                text(0).and_then(|namespace| self.service_account(namespace, text(1)?).map(opaque))
            }
            _ => return None,
        })
    }

    fn equals(&self, other: &dyn Opaque) -> bool {
        other.text() == self.text()
    }

    fn text(&self) -> String {
        format!("{AUTHORIZER} {:?}", self.service_account)
    }
}

impl Opaque for Group {
    fn type_name(&self) -> &'static str {
        GROUP
    }

    fn call<'a>(&self, name: &str, arguments: &[Val<'a>]) -> Option<Result<Val<'a>, String>> {
        let resource = match (name, str_at(arguments, 0)) {
            ("resource", Ok(text)) => not_blank(text, "resource"),
            ("resource", Err(why)) => Err(why),
            _ => return None,
        };
        Some(resource.map(|resource| {
            opaque(Check {
                asked: Arc::clone(&self.of.asked),
                service_account: self.of.service_account.clone(),
                what: What::Resource(Resource {
                    group: self.group.clone(),
                    resource,
                    ..Resource::default()
                }),
            })
        }))
    }

    fn equals(&self, other: &dyn Opaque) -> bool {
        other.text() == self.text()
    }

    fn text(&self) -> String {
        format!("{GROUP} {:?} {}", self.of.service_account, self.group)
    }
}

impl Opaque for Check {
    fn type_name(&self) -> &'static str {
        match self.what {
            What::Path(_) => PATH,
            What::Resource(_) => RESOURCE,
        }
    }

    fn call<'a>(&self, name: &str, arguments: &[Val<'a>]) -> Option<Result<Val<'a>, String>> {
        let text = match str_at(arguments, 0) {
            Ok(text) => text.to_owned(),
            Err(why) => return Some(Err(why)),
        };
        if name == "check" {
            let answer = self.asked.ask(Question {
                service_account: self.service_account.clone(),
                verb: text,
                what: self.what.clone(),
            });
            return Some(answer.map(|answer| opaque(Decision(answer))));
        }
        let What::Resource(mut resource) = self.what.clone() else {
            return None;
        };
        match name {
            "subresource" => resource.subresource = text,
            "namespace" => resource.namespace = text,
            "name" => resource.name = text,
            "fieldSelector" => resource.field_selector = text,
            "labelSelector" => resource.label_selector = text,
            _ => return Some(Err(no_overload())),
        }
        Some(Ok(opaque(Self {
            asked: Arc::clone(&self.asked),
            service_account: self.service_account.clone(),
            what: What::Resource(resource),
        })))
    }

    fn equals(&self, other: &dyn Opaque) -> bool {
        other.text() == self.text()
    }

    fn text(&self) -> String {
        format!("{:?} {:?}", self.service_account, self.what)
    }
}

impl Opaque for Decision {
    fn type_name(&self) -> &'static str {
        DECISION
    }

    fn call<'a>(&self, name: &str, _: &[Val<'a>]) -> Option<Result<Val<'a>, String>> {
        let Self(answer) = self;
        Some(Ok(match name {
            "allowed" => Val::Bool(answer.allowed),
            "errored" => Val::Bool(!answer.error.is_empty()),
            "reason" => Val::text(answer.reason.clone()),
            "error" => Val::text(answer.error.clone()),
            _ => return None,
        }))
    }

    fn equals(&self, other: &dyn Opaque) -> bool {
        other.text() == self.text()
    }

    fn text(&self) -> String {
        format!("{DECISION} {:?}", self.0)
    }
}
