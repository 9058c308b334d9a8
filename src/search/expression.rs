//! The part of FHIRPath in which R4's search parameters are written, compiled to ways through JSON: paths, unions, `as`,
//! `.as()`, `.where(resolve() is Type)`, `.where(name='text')`, `[0]`, and `x.exists() and x != false`. What a choice is
//! called in JSON, and what type each element has, comes from the definitions, so nothing is guessed from the data.

use std::ops::ControlFlow;

use super::element::{self, Datatype};
use crate::fhir::resource_type::ResourceType;
use crate::json::{Object, Value};

/// A way from a resource, or from an element of it, to elements of one type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Path {
    steps: Vec<Step>,
    /// What is there at the end.
    pub(super) datatype: Datatype,
    /// A reference there counts if it is to a resource of this type.
    pub(super) target: Option<ResourceType>,
    /// It begins at the resource, wherever it is used.
    pub(super) is_absolute: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Step {
    member: &'static str,
    /// Only the first of several.
    is_first: bool,
    /// Only those that have a member that says this.
    having: Option<(String, String)>,
}

/// Where a way begins.
#[derive(Clone, Copy)]
pub(super) enum Start<'r, 'a> {
    Resource(&'r Object<'a>),
    Element(Value<'a>),
}

impl<'a> Start<'_, 'a> {
    fn get(self, member: &str) -> Option<Value<'a>> {
        match self {
            Self::Resource(resource) => resource.get(member),
            Self::Element(element) => element.get(member),
        }
    }

    fn value(self) -> Value<'a> {
        match self {
            Self::Resource(resource) => resource.value(),
            Self::Element(element) => element,
        }
    }
}

/// What an expression gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Expression {
    /// The elements at the end of any of these.
    Elements(Vec<Path>),
    /// Whether there is an element that is not `false`.
    Presence(Vec<Path>),
}

impl Expression {
    pub(super) fn paths(&self) -> &[Path] {
        match self {
            Self::Elements(paths) | Self::Presence(paths) => paths,
        }
    }
}

/// Compiles an expression of this type, or of its elements below these.
///
/// # Errors
/// What of it cannot be compiled.
pub(super) fn compile(resource_type: ResourceType, below: &[Path], text: &str) -> Result<Expression, String> {
    if let Some((exists, same)) = text.split_once(" and ") {
        let path = exists.strip_suffix(".exists()").filter(|path| same.strip_suffix(" != false") == Some(path));
        let path = path.ok_or_else(|| format!("cannot compile {text}"))?;
        return Ok(Expression::Presence(branch(resource_type, below, path)?));
    }
    let mut paths = Vec::new();
    for text in parts(text, '|') {
        paths.extend(branch(resource_type, below, text)?);
    }
    Ok(Expression::Elements(paths))
}

/// The parts between these separators that stand outside brackets: branches of a union, steps of a path.
fn parts(text: &str, separator: char) -> Vec<&str> {
    let mut depth = 0_usize;
    let parts = text.split(|c| {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        c == separator && depth == 0
    });
    parts.map(str::trim).collect()
}

/// `(path as Type).rest`, `path.as(Type)`, `path`.
fn branch(resource_type: ResourceType, below: &[Path], text: &str) -> Result<Vec<Path>, String> {
    let (inner, rest) = match text.strip_prefix('(').and_then(|text| text.rsplit_once(')')) {
        Some((inner, rest)) => (inner, rest.strip_prefix('.')),
        None => (text, None),
    };
    let (path, cast) = match inner.split_once(" as ") {
        Some((path, cast)) => (path, Some(cast.trim())),
        None => (inner, None),
    };
    let mut steps = parts(path, '.');
    let is_absolute = steps.first() == Some(&"%resource");
    let starts_at_type =
        steps.first().is_some_and(|first| [resource_type.as_str(), "Resource", "DomainResource"].contains(first));
    if is_absolute || starts_at_type {
        steps.remove(0);
    }
    let root = [Path::root(resource_type, is_absolute)];
    let mut paths = if is_absolute || below.is_empty() { root.to_vec() } else { below.to_vec() };
    for step in &steps {
        paths = follow(resource_type, &paths, step)?;
    }
    if let Some(cast) = cast {
        paths = of_type(paths, cast);
    }
    for step in rest.map(|rest| parts(rest, '.')).unwrap_or_default() {
        paths = follow(resource_type, &paths, step)?;
    }
    if paths.is_empty() { Err(format!("{text} leads nowhere")) } else { Ok(paths) }
}

/// Goes one step on from each.
fn follow(resource_type: ResourceType, paths: &[Path], step: &str) -> Result<Vec<Path>, String> {
    let cannot = || format!("cannot compile {step}");
    if let Some(cast) = step.strip_prefix("as(").and_then(|cast| cast.strip_suffix(')')) {
        return Ok(of_type(paths.to_vec(), cast));
    }
    let Some(condition) = step.strip_prefix("where(").and_then(|condition| condition.strip_suffix(')')) else {
        let (name, is_first) = match step.strip_suffix("[0]") {
            Some(name) => (name, true),
            None => (step, false),
        };
        if !name.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return Err(cannot());
        }
        return Ok(paths.iter().flat_map(|path| path.children(resource_type, name, is_first)).collect());
    };
    let mut paths = paths.to_vec();
    if let Some(target) = condition.strip_prefix("resolve() is ") {
        let target = ResourceType::parse(target).ok_or_else(cannot)?;
        paths.iter_mut().for_each(|path| path.target = Some(target));
    } else {
        let (name, text) = condition.split_once('=').ok_or_else(cannot)?;
        let text = text.strip_prefix('\'').and_then(|text| text.strip_suffix('\'')).ok_or_else(cannot)?;
        for step in paths.iter_mut().filter_map(|path| path.steps.last_mut()) {
            step.having = Some((name.to_owned(), text.to_owned()));
        }
    }
    Ok(paths)
}

/// Those that end in this type. (The definitions write `DateTime` for `dateTime` once.)
fn of_type(paths: Vec<Path>, name: &str) -> Vec<Path> {
    paths.into_iter().filter(|path| path.datatype.name.eq_ignore_ascii_case(name)).collect()
}

impl Path {
    fn root(resource_type: ResourceType, is_absolute: bool) -> Self {
        Self { steps: Vec::new(), datatype: Datatype::of_resource(resource_type), target: None, is_absolute }
    }

    /// To the elements of this name below: of a choice there is one way for each of its types.
    fn children(&self, resource_type: ResourceType, name: &str, is_first: bool) -> impl Iterator<Item = Self> {
        let above: Vec<&str> = self.steps.iter().map(|step| step.member).collect();
        element::named(resource_type, &above, name).into_iter().map(move |(member, datatype)| {
            let mut steps = self.steps.clone();
            steps.push(Step { member, is_first, having: None });
            Self { steps, datatype, ..self.clone() }
        })
    }

    /// The same way from an element that lies on it.
    pub(super) fn below(&self, above: &Self) -> Self {
        if self.is_absolute {
            return self.clone();
        }
        Self { steps: self.steps.get(above.steps.len()..).unwrap_or_default().to_vec(), ..self.clone() }
    }

    /// Its way in JSON, as in `component.valueQuantity`.
    pub(super) fn members(&self) -> impl Iterator<Item = &'static str> {
        self.steps.iter().map(|step| step.member)
    }

    /// Whether it ends where it begins.
    pub(super) fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// Visits what is at its end.
    pub(super) fn visit<'a>(
        &self,
        from: Start<'_, 'a>,
        visit: &mut dyn FnMut(Value<'a>) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        walk(&self.steps, from, visit)
    }
}

fn walk<'a>(
    steps: &[Step],
    from: Start<'_, 'a>,
    visit: &mut dyn FnMut(Value<'a>) -> ControlFlow<()>,
) -> ControlFlow<()> {
    let Some((step, rest)) = steps.split_first() else { return visit(from.value()) };
    let Some(found) = from.get(step.member) else { return ControlFlow::Continue(()) };
    let most = if step.is_first { 1 } else { usize::MAX };
    for item in found.items().take(most).filter(|item| step.takes(*item)) {
        walk(rest, Start::Element(item), visit)?;
    }
    ControlFlow::Continue(())
}

impl Step {
    fn takes(&self, item: Value<'_>) -> bool {
        self.having
            .as_ref()
            .is_none_or(|(name, text)| item.get(name).and_then(Value::text).is_some_and(|found| found == text.as_str()))
    }
}
