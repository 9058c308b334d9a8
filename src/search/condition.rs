//! One condition of a query, and whether a resource fulfils it.

use std::borrow::Cow;
use std::ops::ControlFlow;

use super::date::{self, DateOperand};
use super::expression::{Expression, Path, Start};
use super::filter::{Context, Lookup};
use super::number::{self, NumberOperand, QuantityOperand};
use super::parameter::Parameter;
use super::query::Search;
use super::reference::{self, ReferenceOperand, Referred};
use super::string::{self, StringOperand};
use super::token::{self, Coded, OfType, TokenOperand};
use super::truth::Truth;
use super::uri::{Uri, UriOperand};
use crate::fhir::resource_type::ResourceType;
use crate::json::{Object, Value};

/// A condition on resources of one type.
#[derive(Debug, Clone)]
pub(super) enum Condition {
    /// What is there is one of these.
    Is { parameter: &'static Parameter, operands: Operands },
    /// Nothing there is (`:not`).
    IsNot { parameter: &'static Parameter, operands: Operands },
    /// Whether nothing is there (`:missing`).
    Missing { parameter: &'static Parameter, is_missing: bool },
    /// One of the searches has found what it refers to (`subject.name=…`).
    RefersToFound { parameter: &'static Parameter, searches: Vec<Search> },
    /// The search has found it (`_has`).
    IsFound { search: Search },
}

/// What is asked for: one of these.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Operands {
    String(Vec<StringOperand>),
    Token(Vec<TokenOperand>),
    OfType(Vec<OfType>),
    /// What people read of a code.
    TokenText(Vec<StringOperand>),
    Date(Vec<DateOperand>),
    Number(Vec<NumberOperand>),
    Quantity(Vec<QuantityOperand>),
    Reference(Vec<ReferenceOperand>),
    /// A reference by the identifier that is written in it.
    ReferenceIdentifier(Vec<TokenOperand>),
    Uri(Vec<UriOperand>),
    /// Of each what is asked of the parts of a composite.
    Composite(Vec<Vec<Operands>>),
}

/// A resource under judgement.
pub(super) struct Subject<'a> {
    pub(super) resource_type: ResourceType,
    pub(super) resource: &'a Object<'a>,
    pub(super) context: &'a Context,
    /// All searches of the export.
    pub(super) searches: &'a [Search],
    /// Whether a search has found something, if that is known.
    pub(super) found: &'a dyn Fn(&Lookup) -> Option<bool>,
}

impl Condition {
    /// How many values it asks for.
    pub(super) fn values(&self) -> usize {
        match self {
            Self::Is { operands, .. } | Self::IsNot { operands, .. } => operands.count(),
            Self::Missing { .. } | Self::IsFound { .. } => 1,
            Self::RefersToFound { searches, .. } => searches.len(),
        }
    }

    /// Whether the resource fulfils it.
    pub(super) fn holds(&self, subject: &Subject<'_>) -> Truth {
        let because = |parameter: &Parameter, truth: Truth| truth.because_of(parameter.code());
        match self {
            Self::Is { parameter, operands } => {
                because(parameter, parameter.is_any(operands, subject.start(), subject))
            }
            Self::IsNot { parameter, operands } => {
                because(parameter, parameter.is_any(operands, subject.start(), subject).not())
            }
            Self::Missing { parameter, is_missing } => Truth::from(parameter.is_there(subject) != *is_missing),
            Self::RefersToFound { parameter, searches } => {
                because(parameter, parameter.refers_to_found(searches, subject))
            }
            Self::IsFound { search } => subject.has_found(
                search,
                subject.resource_type,
                subject.resource.get("id").and_then(Value::text).as_deref(),
            ),
        }
    }
}

impl<'a> Subject<'a> {
    fn start(&self) -> Start<'a, 'a> {
        Start::Resource(self.resource)
    }

    /// Whether one of the searches has found this. What a resource holds itself is not in the store: it is judged here.
    fn is_found(&self, searches: &[Search], referred: Referred<'_>) -> Truth {
        let of_type = |found: ResourceType| searches.iter().filter(move |search| search.resource_type() == found);
        match referred {
            Referred::Contained { resource_type, resource } | Referred::Resource { resource_type, resource } => {
                let resource = &Object::of(resource.0);
                let subject = Subject { resource_type, resource, ..*self };
                Truth::any(of_type(resource_type).map(|search| search.query.holds(&subject)))
            }
            referred => match referred.here(&self.context.bases) {
                Some((resource_type, id)) => {
                    Truth::any(of_type(resource_type).map(|search| self.has_found(search, resource_type, Some(&id))))
                }
                None => Truth::No,
            },
        }
    }

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
    fn is_there(&self, subject: &Subject<'_>) -> bool {
        let is_one =
            &mut |element, path: &Path| Truth::from(reference::is_meant(element, path, self.targets, subject.resource));
        self.any(subject.start(), subject, is_one) == Truth::Yes
    }

    /// What each of the elements it looks at says to a question, together: one is enough.
    fn any<'a>(
        &self,
        from: Start<'_, 'a>,
        subject: &Subject<'a>,
        ask: &mut dyn FnMut(Value<'a>, &Path) -> Truth,
    ) -> Truth {
        let mut truth = Truth::No;
        for path in self.expression.paths() {
            let start = if path.is_absolute { subject.start() } else { from };
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
    fn is_any<'a>(&self, operands: &Operands, from: Start<'_, 'a>, subject: &Subject<'a>) -> Truth {
        match (&self.expression, operands) {
            (Expression::Presence(paths), Operands::Token(tokens)) => {
                let is_present = self.any(from, subject, &mut |element, _| Truth::from(element.0 != "false"));
                let present = if is_present == Truth::Yes { "true" } else { "false" };
                let mut asked = paths.iter().map(|path| Coded::plain(Cow::Borrowed(present), path.datatype));
                Truth::from(asked.any(|present| tokens.iter().any(|token| token.is(&present))))
            }
            (_, Operands::Composite(alternatives)) => self.any(from, subject, &mut |element, path| {
                let from = if path.is_empty() { from } else { Start::Element(element) };
                Truth::any(alternatives.iter().map(|parts| {
                    let parts = self.components.iter().zip(parts);
                    Truth::all(parts.map(|(component, part)| component.is_any(part, from, subject)))
                }))
            }),
            _ => self.any(from, subject, &mut |element, path| {
                let matches = operands.match_element(element, path, self.targets, subject);
                matches.map_or_else(Truth::Unreadable, Truth::from)
            }),
        }
    }

    fn refers_to_found(&self, searches: &[Search], subject: &Subject<'_>) -> Truth {
        self.any(subject.start(), subject, &mut |element, path| match Referred::read(
            element,
            path,
            self.targets,
            subject.resource,
        ) {
            Ok(Some(referred)) => subject.is_found(searches, referred),
            Ok(None) => Truth::No,
            Err(reason) => Truth::Unreadable(reason),
        })
    }
}

impl Operands {
    fn count(&self) -> usize {
        match self {
            Self::String(operands) | Self::TokenText(operands) => operands.len(),
            Self::Token(operands) | Self::ReferenceIdentifier(operands) => operands.len(),
            Self::OfType(operands) => operands.len(),
            Self::Date(operands) => operands.len(),
            Self::Number(operands) => operands.len(),
            Self::Quantity(operands) => operands.len(),
            Self::Reference(operands) => operands.len(),
            Self::Uri(operands) => operands.len(),
            Self::Composite(operands) => operands.len(),
        }
    }

    /// Whether an element is one of these: it is read once, however many they are.
    fn match_element<'a>(
        &self,
        element: Value<'a>,
        path: &Path,
        targets: &[ResourceType],
        subject: &Subject<'a>,
    ) -> Result<bool, String> {
        let Subject { context, resource, .. } = subject;
        let (datatype, name) = (path.datatype, path.datatype.name);
        Ok(match self {
            Self::String(operands) => any(operands, &string::read(element, name)?, StringOperand::is),
            Self::TokenText(operands) => any(operands, &token::read_texts(element, datatype)?, StringOperand::is),
            Self::Token(operands) => any(operands, &token::read(element, datatype)?, TokenOperand::is),
            Self::OfType(operands) => any(operands, &[token::object(element, datatype)?], |of, there| of.is(*there)),
            Self::Date(operands) => {
                let there = date::read(element, name)?;
                any(operands, there.as_slice(), |date, there| date.is(*there, context.at))
            }
            Self::Number(operands) => any(operands, &[number::read(element, name)?], NumberOperand::is),
            Self::Quantity(operands) => {
                any(operands, number::read_amount(element, name)?.as_slice(), QuantityOperand::is)
            }
            Self::Reference(operands) => {
                let there = Referred::read(element, path, targets, resource)?;
                any(operands, there.as_slice(), |reference, there| reference.is(there, &context.bases))
            }
            Self::ReferenceIdentifier(operands) => {
                let identifier = reference::identifier(element, path, targets, resource)?;
                let there = identifier.map(|identifier| Coded::of(identifier, "value"));
                any(operands, there.as_slice(), TokenOperand::is)
            }
            Self::Uri(operands) => any(operands, &[Uri::read(element, name)?], UriOperand::is),
            // Its parts are asked of the elements below.
            Self::Composite(_) => false,
        })
    }
}

/// Whether any of what is asked for is any of what is there.
fn any<A, B>(asked: &[A], there: &[B], is: impl Fn(&A, &B) -> bool) -> bool {
    there.iter().any(|there| asked.iter().any(|asked| is(asked, there)))
}
