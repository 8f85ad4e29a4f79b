//! `--format`: Go templates with docker's functions, over JSON data.
//!
//! Knows neither columns nor tables: see [`super::output`].

use gotmpl::{MissingKey, Template, TemplateError, Value as Datum};
use serde_json::Value;

use crate::error::Fail;

/// A template that was read and can be filled.
pub struct Format {
    source: String,
    template: Template,
}

impl std::fmt::Debug for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Format").field(&self.source).finish()
    }
}

/// Whether functions work on data, or leave the names of columns as they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Over {
    /// Values.
    Data,
    /// The heads of a table's columns.
    Headers,
}

impl Format {
    /// Reads a template.
    ///
    /// # Errors
    /// [`crate::error::Kind::Usage`] with the place of the mistake.
    pub fn parse(source: &str, over: Over) -> Result<Self, Fail> {
        let template = functions(
            Template::new("--format").missing_key(MissingKey::Error),
            over,
        )
        .parse(source)
        .map_err(|error| explain(source, &error, None))?;
        Ok(Self {
            source: source.to_owned(),
            template,
        })
    }

    /// Fills the template with a JSON object.
    ///
    /// # Errors
    /// [`crate::error::Kind::Usage`] that names a field that does not exist, and those that do.
    pub fn fill(&self, data: &Value) -> Result<String, Fail> {
        // The template's own maps are sorted; what is asked for whole keeps docker's order.
        if self.source.split_whitespace().collect::<String>() == "{{json.}}" {
            return Ok(data.to_string());
        }
        self.template
            .execute_to_string(&to_datum(data))
            .map_err(|error| explain(&self.source, &error, Some(data)))
    }
}

/// Docker's functions (docker/cli, `templates.go`) beside the ones of the language.
fn functions(template: Template, over: Over) -> Template {
    let is_data = over == Over::Data;
    let text = move |change: fn(&str) -> String| {
        move |args: &[Datum]| {
            let text = string(args, 0)?;
            Ok(Datum::String(
                if is_data { change(&text) } else { text }.into(),
            ))
        }
    };
    template
        .func("json", move |args| {
            let datum = args.first().unwrap_or(&Datum::Nil);
            match (is_data, datum) {
                (false, header) => Ok(header.clone()),
                (true, datum) => Ok(Datum::String(to_json(datum).to_string().into())),
            }
        })
        .func("lower", text(str::to_lowercase))
        .func("upper", text(str::to_uppercase))
        .func("title", text(title))
        .func("split", move |args| {
            let (text, separator) = (string(args, 0)?, string(args, 1)?);
            let parts: Vec<Datum> = if is_data {
                text.split(separator.as_str())
                    .map(|part| Datum::String(part.into()))
                    .collect()
            } else {
                vec![Datum::String(text.into())]
            };
            Ok(Datum::List(parts.into()))
        })
        .func("join", move |args| match args.first() {
            Some(Datum::List(items)) => {
                let words: Vec<String> = items.iter().map(ToString::to_string).collect();
                Ok(Datum::String(words.join(&string(args, 1)?).into()))
            }
            Some(Datum::Nil) => Ok(Datum::String("".into())),
            Some(header) if !is_data => Ok(header.clone()),
            _ => Err(wrong("join needs a list and a separator")),
        })
        // Stands for the method `.Label "x"` of docker's containers, see `ps`.
        .func("label", move |args| {
            let name = string(args, 1)?;
            let text = match args.first() {
                Some(Datum::Map(labels)) if is_data => {
                    labels.get(name.as_str()).map(ToString::to_string)
                }
                _ if is_data => None,
                _ => name
                    .rsplit('.')
                    .next()
                    .map(|last| last.replace(['-', '_'], " ")),
            };
            Ok(Datum::String(text.unwrap_or_default().into()))
        })
        .func("pad", move |args| {
            let text = string(args, 0)?;
            if !is_data || text.is_empty() {
                return Ok(Datum::String(text.into()));
            }
            let (before, after) = (number(args, 1)?, number(args, 2)?);
            Ok(Datum::String(
                format!("{}{text}{}", " ".repeat(before), " ".repeat(after)).into(),
            ))
        })
        .func("truncate", move |args| {
            let text = string(args, 0)?;
            let length = number(args, 1)?;
            Ok(Datum::String(if is_data {
                text.chars().take(length).collect::<String>().into()
            } else {
                text.into()
            }))
        })
}

fn title(text: &str) -> String {
    let mut start = true;
    text.chars()
        .flat_map(|c| {
            let upper = start;
            start = c.is_whitespace();
            let changed: Vec<char> = if upper {
                c.to_uppercase().collect()
            } else {
                vec![c]
            };
            changed
        })
        .collect()
}

fn wrong(what: &str) -> TemplateError {
    TemplateError::Exec(what.to_owned())
}

fn string(args: &[Datum], position: usize) -> Result<String, TemplateError> {
    args.get(position)
        .map(ToString::to_string)
        .ok_or_else(|| wrong("a function has too few arguments"))
}

fn number(args: &[Datum], position: usize) -> Result<usize, TemplateError> {
    args.get(position)
        .and_then(Datum::as_int)
        .and_then(|number| usize::try_from(number).ok())
        // No terminal is wider, and `pad` must not fill the memory.
        .filter(|number| *number <= 10_000)
        .ok_or_else(|| wrong("a function needs a number from 0 to 10000"))
}

/// Says what is wrong with `source`, and where.
fn explain(source: &str, error: &TemplateError, data: Option<&Value>) -> Fail {
    let at = |line: usize, column: usize| {
        if source.contains('\n') {
            format!("line {line}, column {column}")
        } else {
            format!("column {column}")
        }
    };
    if let TemplateError::Parse {
        line, col, message, ..
    }
    | TemplateError::Lex {
        line, col, message, ..
    } = error
    {
        return Fail::usage(format!(
            "--format `{source}`, {}: {message}",
            at(*line, *col)
        ))
        .hint("fields are written {{.Name}}; `json` prints everything");
    }
    let TemplateError::MissingKey { key } = error else {
        return Fail::usage(format!("--format `{source}`: {error}"));
    };
    let found = source.find(&format!(".{key}"));
    let before = found.map_or("", |byte| &source[..byte]);
    let place = if found.is_some() {
        let line = before.matches('\n').count() + 1;
        let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
        format!(", {}", at(line, column))
    } else {
        String::new()
    };
    let fail = Fail::usage(format!("--format `{source}`{place}: no field `{key}`"));
    // `.Config.Nope` is not one of the fields that could be listed.
    let is_inner = before.ends_with(|c: char| c.is_alphanumeric());
    match data.and_then(Value::as_object) {
        Some(fields) if !is_inner && !fields.contains_key(key) => {
            let known: Vec<&str> = fields.keys().map(String::as_str).collect();
            fail.hint(format!("fields: {}", known.join(" ")))
        }
        _ => fail.hint("`--format json` prints all fields"),
    }
}

fn to_datum(value: &Value) -> Datum {
    match value {
        Value::Null => Datum::Nil,
        Value::Bool(flag) => Datum::Bool(*flag),
        Value::Number(number) => match (number.as_i64(), number.as_u64(), number.as_f64()) {
            (Some(signed), ..) => Datum::Int(signed),
            (None, Some(unsigned), _) => Datum::Uint(unsigned),
            (None, None, float) => Datum::Float(float.unwrap_or_default()),
        },
        Value::String(text) => Datum::String(text.as_str().into()),
        Value::Array(items) => Datum::List(items.iter().map(to_datum).collect()),
        Value::Object(fields) => Datum::Map(
            fields
                .iter()
                .map(|(key, value)| (key.as_str().into(), to_datum(value)))
                .collect::<std::collections::BTreeMap<_, _>>()
                .into(),
        ),
    }
}

fn to_json(datum: &Datum) -> Value {
    match datum {
        Datum::Nil | Datum::Function(_) => Value::Null,
        Datum::Bool(flag) => Value::Bool(*flag),
        Datum::Int(number) => Value::from(*number),
        Datum::Uint(number) => Value::from(*number),
        Datum::Float(number) => Value::from(*number),
        Datum::String(text) => Value::String(text.to_string()),
        Datum::List(items) => Value::Array(items.iter().map(to_json).collect()),
        Datum::Map(fields) => Value::Object(
            fields
                .iter()
                .map(|(key, value)| (key.to_string(), to_json(value)))
                .collect(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn docker_functions_work_on_data() {
        let data = json!({
            "Name": "web one", "List": ["a", "b"], "Map": {"z": 1, "a": "<b>"}, "Null": null,
            "Nothing": [],
        });
        for (source, expected) in [
            ("{{.Name}}", "web one"),
            ("{{upper .Name}} {{title .Name}}", "WEB ONE Web One"),
            ("{{.Name | lower | truncate 3}}", "error"),
            ("{{truncate .Name 3}}|{{pad .Name 1 2}}|", "web| web one  |"),
            (r#"{{join .List ", "}}"#, "a, b"),
            (r#"{{index (split .Name " ") 1}}"#, "one"),
            ("{{json .Map}}", r#"{"a":"<b>","z":1}"#),
            ("{{json .}}", &data.to_string()),
            ("{{json .Null}} {{json .Nothing}}", "null []"),
            (
                "{{range $k, $v := .Map}}{{$k}}={{$v}};{{end}}",
                "a=<b>;z=1;",
            ),
            (r#"{{printf "%-9s" .Name}}|{{len .List}}"#, "web one  |2"),
            (r#"{{index .Map "a"}}{{println 1 2}}"#, "<b>1 2\n"),
        ] {
            let filled = Format::parse(source, Over::Data)
                .expect(source)
                .fill(&data)
                .unwrap_or_else(|_| "error".to_owned());
            assert_eq!(filled, expected, "{source}");
        }
    }

    #[test]
    fn a_mistake_is_shown_with_its_place() {
        let data = json!({"Name": "web", "Id": 1});
        for (source, message) in [
            ("{{.Name", "--format `{{.Name`, column 8: unclosed action"),
            ("{{.Nam}}", "--format `{{.Nam}}`, column 3: no field `Nam`"),
            (
                "a\n{{.Nam}}",
                "--format `a\n{{.Nam}}`, line 2, column 3: no field `Nam`",
            ),
            ("{{nope .Name}}", "--format `{{nope .Name}}`"),
        ] {
            let fail = Format::parse(source, Over::Data)
                .and_then(|format| format.fill(&data))
                .expect_err(source);
            assert!(fail.message.starts_with(message), "{}", fail.message);
        }
        let fail = Format::parse("{{.Nam}}", Over::Data)
            .and_then(|format| format.fill(&data))
            .expect_err("refused");
        assert_eq!(fail.hints, ["fields: Name Id"]);
    }

    #[test]
    fn functions_leave_headers_alone() {
        let heads = json!({"Name": "NAME"});
        for source in [
            "{{json .Name}}",
            "{{lower .Name}}",
            "{{truncate .Name 1}}",
            "{{pad .Name 3 3}}",
        ] {
            let filled = Format::parse(source, Over::Headers)
                .expect(source)
                .fill(&heads);
            assert_eq!(filled.expect(source), "NAME");
        }
    }
}
