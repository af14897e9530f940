//! What chat templates call as if they ran in Python: methods of texts, tests, the clock.

use minijinja::{
    Error, ErrorKind, State, Value,
    value::{ValueKind, from_args},
};
use minijinja_contrib::pycompat;

/// Methods where Python differs from `pycompat`; the others are its.
pub fn method(state: &State<'_, '_>, value: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    let Some(text) = value.as_str() else { return pycompat::unknown_method_callback(state, value, method, args) };
    match method {
        "strip" | "lstrip" | "rstrip" => {
            let (chars,): (Option<Value>,) = from_args(args)?;
            let chars = chars.filter(|chars| !chars.is_none());
            let is_stripped = stripped(chars.as_ref())?;
            let text = if method == "rstrip" { text } else { text.trim_start_matches(&is_stripped) };
            Ok(Value::from(if method == "lstrip" { text } else { text.trim_end_matches(&is_stripped) }))
        }
        "removeprefix" => {
            let (prefix,): (&str,) = from_args(args)?;
            Ok(Value::from(text.strip_prefix(prefix).unwrap_or(text)))
        }
        "removesuffix" => {
            let (suffix,): (&str,) = from_args(args)?;
            Ok(Value::from(text.strip_suffix(suffix).unwrap_or(text)))
        }
        // Python counts characters.
        "find" | "rfind" => {
            let (what,): (&str,) = from_args(args)?;
            let found = if method == "find" { text.find(what) } else { text.rfind(what) };
            Ok(Value::from(found.map_or(-1, |at| text[..at].chars().count() as i64)))
        }
        "count" => {
            let (what,): (&str,) = from_args(args)?;
            Ok(Value::from(text.matches(what).count()))
        }
        _ => pycompat::unknown_method_callback(state, value, method, args),
    }
}

/// The filter `trim`: `strip`.
pub fn trim(text: &str, chars: Option<Value>) -> Result<String, Error> {
    Ok(text.trim_matches(stripped(chars.filter(|chars| !chars.is_none()).as_ref())?).to_owned())
}

fn stripped(chars: Option<&Value>) -> Result<impl Fn(char) -> bool, Error> {
    let not_text = || Error::new(ErrorKind::InvalidOperation, "what is stripped is a text of characters");
    let chars = chars.map(|chars| chars.as_str().map(str::to_owned).ok_or_else(not_text)).transpose()?;
    Ok(move |c: char| chars.as_ref().map_or_else(|| is_space(c), |chars| chars.contains(c)))
}

/// Python's `str.isspace`: Unicode's white space and the four separators of ASCII.
fn is_space(c: char) -> bool {
    c.is_whitespace() || matches!(c, '\x1c'..='\x1f')
}

/// The test `sequence`: texts and dicts are.
pub fn is_sequence(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::Seq | ValueKind::String | ValueKind::Map)
}

/// The test `iterable`.
pub fn is_iterable(value: &Value) -> bool {
    is_sequence(value) || value.kind() == ValueKind::Iterable
}

const MONTHS: [&str; 12] =
    ["January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December"];
/// From the day of the Unix epoch on.
const DAYS: [&str; 7] = ["Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"];

/// `strftime` of this time, UTC, in English.
///
/// # Errors
/// Names the directive that is not known.
pub fn strftime(format: &str, seconds: u64) -> Result<String, Error> {
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    let (month_name, day_name) = (MONTHS[month - 1], DAYS[(days % 7) as usize]);
    let (mut out, mut chars) = (String::new(), format.chars());
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let hour = second / 3600;
        out.push_str(&match chars.next() {
            Some('Y') => year.to_string(),
            Some('y') => format!("{:02}", year % 100),
            Some('m') => format!("{month:02}"),
            Some('d') => format!("{day:02}"),
            Some('H') => format!("{hour:02}"),
            Some('I') => format!("{:02}", (hour + 11) % 12 + 1),
            Some('p') => if hour < 12 { "AM" } else { "PM" }.to_owned(),
            Some('M') => format!("{:02}", second / 60 % 60),
            Some('S') => format!("{:02}", second % 60),
            Some('B') => month_name.to_owned(),
            Some('b') => month_name[..3].to_owned(),
            Some('A') => day_name.to_owned(),
            Some('a') => day_name[..3].to_owned(),
            Some('%') => "%".to_owned(),
            other => {
                let what = other.map(String::from).unwrap_or_default();
                return Err(Error::new(ErrorKind::InvalidOperation, format!("strftime_now does not know %{what}")));
            }
        });
    }
    Ok(out)
}

/// Year, month from 1 and day from 1 of a day since the Unix epoch.
fn civil(mut days: u64) -> (u64, usize, u64) {
    let is_leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let mut year = 1970;
    while days >= 365 + u64::from(is_leap(year)) {
        days -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let february = 28 + u64::from(is_leap(year));
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    (year, month, days + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told() {
        let told = |format, seconds| strftime(format, seconds).unwrap();
        assert_eq!(told("%a %A %d %b %B %Y %y-%m %H:%M:%S %I%p %%", 951_782_399), "Mon Monday 28 Feb February 2000 00-02 23:59:59 11PM %");
        assert_eq!(told("%d %b %Y", 951_782_400), "29 Feb 2000");
        assert_eq!(told("%Y-%m-%d %I", 1_735_603_200), "2024-12-31 12");
        assert!(strftime("%Q", 0).unwrap_err().to_string().contains("%Q"));
    }

    #[test]
    fn texts_are_stripped_as_in_python() {
        assert_eq!(trim("\u{1c} \n\u{3000}a ", None).unwrap(), "a");
        assert_eq!(trim("xxaxy", Some("xy".into())).unwrap(), "a");
    }
}
