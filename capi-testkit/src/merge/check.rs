//! Whether an applied object fits its shape.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{
    element,
    shape::{Place, Treatment},
};

/// Everything that does not fit, in the words of the real server, or `None`.
pub(crate) fn misfit(place: Place<'_>, value: &Value) -> Option<String> {
    let mut walk = Walk {
        faults: Vec::new(),
        path: String::new(),
    };
    walk.value(place, value);
    match walk.faults.as_slice() {
        [] => None,
        [fault] => Some(fault.clone()),
        faults => Some(format!("errors:\n  {}", faults.join("\n  "))),
    }
}

struct Walk {
    faults: Vec<String>,
    path: String,
}

impl Walk {
    fn value(&mut self, place: Place<'_>, value: &Value) {
        if let Some(fault) = place.mismatch(value) {
            self.fault(&fault);
            return;
        }
        match value {
            Value::Object(fields) => {
                for (name, value) in fields {
                    let field = place.field(name);
                    self.within(&element::field(name), |walk| {
                        if field.declared {
                            walk.value(field.place, value);
                        } else {
                            walk.fault("field not declared in schema");
                        }
                    });
                    if !field.declared {
                        // The real server looks no further in this map either.
                        return;
                    }
                }
            }
            Value::Array(items) => self.list(place, items, place.treatment(value)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }

    fn list(&mut self, place: Place<'_>, items: &[Value], treatment: Treatment) {
        let mut seen = BTreeSet::new();
        for (index, item) in items.iter().enumerate() {
            let element = if treatment == Treatment::Associative {
                match place.element(item) {
                    Ok(element) => element,
                    Err(fault) => {
                        self.fault(&format!("element {index}: {fault}"));
                        return;
                    }
                }
            } else {
                format!("i:{index}")
            };
            if !seen.insert(element.clone()) {
                self.fault(&format!(
                    "duplicate entries for key {}",
                    element::display(&element)
                ));
            }
            self.within(&element, |walk| walk.value(place.item(), item));
        }
    }

    fn within(&mut self, element: &str, walk: impl FnOnce(&mut Self)) {
        let length = self.path.len();
        self.path.push_str(&element::display(element));
        walk(self);
        self.path.truncate(length);
    }

    fn fault(&mut self, fault: &str) {
        self.faults.push(if self.path.is_empty() {
            fault.to_owned()
        } else {
            format!("{}: {fault}", self.path)
        });
    }
}
