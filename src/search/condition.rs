//! One condition of a query, and whether a resource fulfils it.

use std::ops::ControlFlow;

use super::date::DateOperand;
use super::expression::{Expression, Path};
use super::filter::{Context, Lookup};
use super::number::{NumberOperand, QuantityOperand};
use super::parameter::Parameter;
use super::query::Search;
use super::reference::{ReferenceOperand, referred};
use super::string::StringOperand;
use super::token::{OfType, TokenOperand, TokenText};
use super::truth::Truth;
use super::uri::UriOperand;
use crate::fhir::resource_type::ResourceType;
use crate::json::Value;

/// A condition on resources of one type.
#[derive(Debug, Clone)]
pub(super) enum Condition {
    /// What is there is one of these.
    Is { parameter: &'static Parameter, operands: Vec<Operand> },
    /// Nothing there is (`:not`).
    IsNot { parameter: &'static Parameter, operands: Vec<Operand> },
    /// Whether nothing is there (`:missing`).
    Missing { parameter: &'static Parameter, is_missing: bool },
    /// One of the searches has found what it refers to (`subject.name=…`).
    RefersToFound { parameter: &'static Parameter, searches: Vec<Search> },
    /// The search has found it (`_has`).
    IsFound { search: Search },
}

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Operand {
    String(StringOperand),
    Token(TokenOperand),
    OfType(OfType),
    TokenText(TokenText),
    Date(DateOperand),
    Number(NumberOperand),
    Quantity(QuantityOperand),
    Reference(ReferenceOperand),
    /// A reference by the identifier that is written in it.
    ReferenceIdentifier(TokenOperand),
    Uri(UriOperand),
    /// One for each part of a composite.
    Composite(Vec<Operand>),
}

/// A resource under judgement.
pub(super) struct Subject<'a> {
    pub(super) resource_type: ResourceType,
    pub(super) body: Value<'a>,
    pub(super) context: &'a Context,
    /// All searches of the export.
    pub(super) searches: &'a [Search],
    /// Whether a search has found something, if that is known.
    pub(super) found: &'a dyn Fn(&Lookup) -> Option<bool>,
}

impl Condition {
    /// Whether the resource fulfils it.
    pub(super) fn holds(&self, subject: &Subject<'_>) -> Truth {
        let because = |parameter: &Parameter, truth: Truth| truth.because_of(parameter.code());
        match self {
            Self::Is { parameter, operands } => because(parameter, parameter.is_any(operands, subject.body, subject)),
            Self::IsNot { parameter, operands } => {
                because(parameter, parameter.is_any(operands, subject.body, subject).not())
            }
            Self::Missing { parameter, is_missing } => Truth::from(parameter.is_there(subject.body) != *is_missing),
            Self::RefersToFound { parameter, searches } => {
                because(parameter, parameter.refers_to_found(searches, subject))
            }
            Self::IsFound { search } => subject.has_found(
                search,
                subject.resource_type,
                subject.body.get("id").and_then(Value::text).as_deref(),
            ),
        }
    }
}

impl Subject<'_> {
    fn has_found(&self, search: &Search, resource_type: ResourceType, id: Option<&str>) -> Truth {
        let number = self.searches.iter().position(|known| known == search);
        let Some((search, id)) = number.zip(id) else { return Truth::No };
        let lookup = Lookup { search, resource_type, id: id.to_owned() };
        match (self.found)(&lookup) {
            Some(is_found) => Truth::from(is_found),
            None => Truth::Depends(vec![lookup]),
        }
    }
}

impl Parameter {
    /// Whether there is anything it looks at.
    fn is_there(&self, from: Value<'_>) -> bool {
        self.expression.paths().iter().any(|path| path.visit(from, &mut |_| ControlFlow::Break(())).is_break())
    }

    /// What each of the elements it looks at says to a question, together: one is enough.
    fn any<'a>(&self, from: Value<'a>, body: Value<'a>, ask: &mut dyn FnMut(Value<'a>, &Path) -> Truth) -> Truth {
        let mut truth = Truth::No;
        for path in self.expression.paths() {
            let start = if path.is_absolute { body } else { from };
            let done = path.visit(start, &mut |element| {
                truth.or(ask(element, path));
                if truth == Truth::Yes { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            });
            if done.is_break() {
                break;
            }
        }
        truth
    }

    /// Whether one of the elements it looks at is one of these.
    fn is_any(&self, operands: &[Operand], from: Value<'_>, subject: &Subject<'_>) -> Truth {
        if let Expression::Presence(paths) = &self.expression {
            let is_present = self.any(from, subject.body, &mut |element, _| Truth::from(element.0 != "false"));
            let present = Value(if is_present == Truth::Yes { "true" } else { "false" });
            let Some(path) = paths.iter().find(|path| path.datatype.name == "boolean") else { return Truth::No };
            return Truth::any(operands.iter().map(|operand| operand.matches(present, path, self, subject)));
        }
        self.any(from, subject.body, &mut |element, path| {
            Truth::any(operands.iter().map(|operand| operand.matches(element, path, self, subject)))
        })
    }

    fn refers_to_found(&self, searches: &[Search], subject: &Subject<'_>) -> Truth {
        self.any(subject.body, subject.body, &mut |element, path| match referred(
            element,
            path,
            self.targets,
            &subject.context.bases,
        ) {
            Ok(Some((resource_type, id))) => {
                let of_type = searches.iter().filter(|search| search.resource_type() == resource_type);
                Truth::any(of_type.map(|search| subject.has_found(search, resource_type, Some(&id))))
            }
            Ok(None) => Truth::No,
            Err(reason) => Truth::Unreadable(reason),
        })
    }
}

impl Operand {
    fn matches(&self, element: Value<'_>, path: &Path, parameter: &Parameter, subject: &Subject<'_>) -> Truth {
        let (datatype, name) = (path.datatype, path.datatype.name);
        let bases = &subject.context.bases;
        let matches = match self {
            Self::String(operand) => operand.matches(element, name),
            Self::Token(operand) => operand.matches(element, datatype),
            Self::OfType(operand) => operand.matches(element, datatype),
            Self::TokenText(operand) => operand.matches(element, datatype),
            Self::Date(operand) => operand.matches(element, name, subject.context.at),
            Self::Number(operand) => operand.matches(element, name),
            Self::Quantity(operand) => operand.matches(element, name),
            Self::Reference(operand) => operand.matches(element, path, parameter.targets, bases),
            Self::ReferenceIdentifier(operand) => {
                let identifier = element.get("identifier");
                Ok(identifier.is_some_and(|identifier| operand.is(identifier, "value")))
            }
            Self::Uri(operand) => operand.matches(element, name),
            Self::Composite(parts) => {
                let parts = parameter.components.iter().zip(parts);
                return Truth::all(
                    parts.map(|(component, part)| component.is_any(std::slice::from_ref(part), element, subject)),
                );
            }
        };
        matches.map_or_else(Truth::Unreadable, Truth::from)
    }
}
