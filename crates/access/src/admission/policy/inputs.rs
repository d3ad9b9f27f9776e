//! What expressions of webhooks and policies see, and how they are evaluated.
//!
//! An expression may ask what a user may do. Asking takes time and evaluating does not wait, so that an evaluation
//! which met a question without an answer is thrown away, the question answered, and all evaluated again: see
//! [`answered`].

use crate::Objects;
use crate::admission::Attributes;
use crate::admission::matching::Hit;
use crate::admission::webhook::review;
use crate::authorization::{self, Authorizer, Decision};
use expressions::admission::{self, PER_CALL, Wanted};
use expressions::{
    Answer, Budget, Environment, EvalError, Memo, Program, Question, Questions, Resource, Type, Val, What,
};
use machinery::Value;
use machinery::status::ApiError;
use machinery::user::UserInfo;
use std::sync::Arc;

/// An expression, or why it is none.
#[derive(Debug)]
pub(crate) struct Expression {
    pub text: String,
    program: Result<Program, String>,
}

/// Why an expression has no value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Wrong {
    /// It failed.
    Failed(String),
    /// All that may be spent is spent: nothing more is evaluated.
    Exhausted(String),
}

impl Wrong {
    pub(crate) fn into_text(self) -> String {
        match self {
            Self::Failed(why) | Self::Exhausted(why) => why,
        }
    }
}

impl Expression {
    pub(crate) fn new(environment: &Environment, text: &str, wanted: Wanted) -> Self {
        Self {
            text: text.to_owned(),
            program: admission::compile(environment, text, wanted),
        }
    }

    /// Why it is none.
    pub(crate) fn error(&self) -> Option<&str> {
        self.program.as_ref().err().map(String::as_str)
    }
}

/// The request, as expressions see it.
pub(crate) struct Inputs {
    object: Value,
    old: Value,
    request: Value,
    params: Option<Arc<Value>>,
    namespace: Option<Arc<Value>>,
    questions: Arc<Questions>,
    resource: Resource,
}

impl Inputs {
    pub(crate) fn new(
        attributes: &Attributes<'_>,
        object: Option<&Value>,
        hit: &Hit,
        questions: &Arc<Questions>,
    ) -> Result<Self, ApiError> {
        let view =
            |object: Option<&Value>| object.map_or(Ok(Value::Null), |object| attributes.view(object, hit));
        let target = &attributes.target;
        Ok(Self {
            object: view(object)?,
            old: view(attributes.old)?,
            request: Value::Object(review::fields(hit, attributes)),
            params: None,
            namespace: None,
            questions: Arc::clone(questions),
            resource: Resource {
                group: target.group.to_owned(),
                resource: target.resource.to_owned(),
                subresource: target.subresource.to_owned(),
                namespace: target.namespace.to_owned(),
                name: target.name.to_owned(),
                ..Resource::default()
            },
        })
    }

    /// What a policy's expressions see beside that.
    pub(crate) async fn with_namespace(
        mut self,
        attributes: &Attributes<'_>,
        objects: &dyn Objects,
    ) -> Result<Self, ApiError> {
        let target = &attributes.target;
        let is_namespace = target.kind_group.is_empty() && target.kind == "Namespace";
        if !target.namespace.is_empty() && !is_namespace {
            self.namespace = objects.get("", "namespaces", "", target.namespace).await?;
        }
        Ok(self)
    }

    /// The object is another now.
    pub(crate) fn show(&mut self, object: Value) {
        self.object = object;
    }

    pub(crate) fn with_params(&mut self, params: Option<Arc<Value>>) {
        self.params = params;
    }

    /// The values of [`admission::Variable`], in their order.
    fn values(&self) -> Vec<Val<'_>> {
        vec![
            Val::of(&self.object, &Type::Dyn),
            Val::of(&self.old, &Type::Dyn),
            Val::of(&self.request, &admission::request()),
            self.namespace
                .as_deref()
                .map_or(Val::Null, |value| Val::of(value, &admission::namespace())),
            self.params
                .as_deref()
                .map_or(Val::Null, |value| Val::of(value, &Type::Dyn)),
            self.questions.authorizer(),
            self.questions.resource(self.resource.clone()),
        ]
    }
}

/// One evaluation: several expressions over the same inputs, with so much to spend.
pub(crate) struct Evaluation<'a> {
    values: Vec<Val<'a>>,
    memo: Memo<'a>,
    left: u64,
}

impl<'a> Evaluation<'a> {
    pub(crate) fn new(inputs: &'a Inputs, most: u64) -> Self {
        Self {
            values: inputs.values(),
            memo: Memo::default(),
            left: most,
        }
    }

    pub(crate) fn run(&mut self, expression: &'a Expression) -> Result<Val<'a>, Wrong> {
        let program = match &expression.program {
            Ok(program) => program,
            Err(why) => return Err(Wrong::Failed(format!("compilation error: {why}"))),
        };
        let mut budget = Budget::new(PER_CALL);
        let outcome = program.evaluate_with(&self.values, &mut self.memo, &mut budget);
        match self.left.checked_sub(PER_CALL - budget.left()) {
            Some(left) => self.left = left,
            None => {
                let why = "validation failed due to running out of cost budget, no further validation rules will be run";
                return Err(Wrong::Exhausted(why.to_owned()));
            }
        }
        outcome.map_err(|error: EvalError| {
            Wrong::Failed(format!(
                "expression '{}' resulted in error: {error}",
                expression.text
            ))
        })
    }
}

/// Evaluates until nothing is asked that has no answer.
pub(crate) async fn answered<T>(
    questions: &Questions,
    attributes: &Attributes<'_>,
    authorizer: Option<&dyn Authorizer>,
    mut evaluate: impl FnMut() -> T,
) -> T {
    loop {
        let result = evaluate();
        let open = questions.take_open();
        if open.is_empty() {
            return result;
        }
        for question in open {
            let answer = answer(&question, attributes.user, authorizer).await;
            questions.answer(question, answer);
        }
    }
}

async fn answer(question: &Question, user: &UserInfo, authorizer: Option<&dyn Authorizer>) -> Answer {
    let Some(authorizer) = authorizer else {
        return Answer {
            error: "there is no authorizer".to_owned(),
            ..Answer::default()
        };
    };
    let service_account;
    let user = match &question.service_account {
        None => user,
        Some((namespace, name)) => {
            service_account = UserInfo {
                name: format!("system:serviceaccount:{namespace}:{name}"),
                groups: vec![
                    "system:serviceaccounts".to_owned(),
                    format!("system:serviceaccounts:{namespace}"),
                ],
                ..UserInfo::default()
            };
            &service_account
        }
    };
    let attributes = match &question.what {
        What::Path(path) => authorization::Attributes::path(user, &question.verb, path),
        What::Resource(what) => authorization::Attributes {
            subresource: &what.subresource,
            namespace: &what.namespace,
            name: &what.name,
            field_selector: Some(what.field_selector.as_str()).filter(|text| !text.is_empty()),
            label_selector: Some(what.label_selector.as_str()).filter(|text| !text.is_empty()),
            ..authorization::Attributes::resource(user, &question.verb, &what.group, &what.resource)
        },
    };
    let (allowed, reason) = match authorizer.authorize(&attributes).await {
        Decision::Allow => (true, String::new()),
        Decision::Deny(reason) | Decision::NoOpinion(reason) => (false, reason),
    };
    Answer {
        allowed,
        reason,
        error: String::new(),
    }
}

/// Named expressions that must all be true.
#[derive(Debug, Default)]
pub(crate) struct Conditions(Vec<(String, Expression)>);

impl Conditions {
    pub(crate) fn read(environment: &Environment, list: Option<&Value>) -> Self {
        let list = list.and_then(Value::as_array).unwrap_or_default();
        let conditions = list.iter().map(|condition| {
            let text = |field: &str| condition.get(field).and_then(Value::as_str).unwrap_or_default();
            let expression = Expression::new(environment, text("expression"), Wanted::Flag);
            (text("name").to_owned(), expression)
        });
        Self(conditions.collect())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether all are true. One that is false decides, whatever is wrong with others.
    pub(crate) fn hold(&self, inputs: &Inputs) -> Result<bool, String> {
        let mut evaluation = Evaluation::new(inputs, admission::BUDGET_OF_CONDITIONS);
        let mut wrong = Vec::new();
        for (_, condition) in &self.0 {
            match evaluation.run(condition) {
                Ok(Val::Bool(false)) => return Ok(false),
                Ok(_) => {}
                Err(Wrong::Failed(why)) => wrong.push(why),
                Err(Wrong::Exhausted(why)) => return Err(why),
            }
        }
        if wrong.is_empty() {
            Ok(true)
        } else {
            Err(machinery::field::join_messages(&wrong))
        }
    }
}

/// Declares a policy's variables, each of which knows those before it.
pub(super) fn define(environment: &mut Environment, list: Option<&Value>) {
    for variable in list.and_then(Value::as_array).unwrap_or_default() {
        let text = |field: &str| variable.get(field).and_then(Value::as_str).unwrap_or_default();
        let program = admission::compile(environment, text("expression"), Wanted::Anything);
        environment.define(text("name"), program);
    }
}
