//! The pages behind `rl explain`: one for each code that a message can have.

/// Pages begin with a line `RL-X00 Title`; nothing else begins with `RL-`.
const PAGES: &str = include_str!("pages.txt");

/// Each page with its code.
fn pages() -> impl Iterator<Item = (&'static str, &'static str)> {
    let starts = PAGES.match_indices("\nRL-").map(|(at, _)| at + 1);
    starts.map(|start| {
        let rest = &PAGES[start..];
        let end = rest.find("\nRL-").unwrap_or(rest.len());
        let page = rest[..end].trim_end();
        (page.split(' ').next().unwrap_or_default(), page)
    })
}

/// The page of `code`, which may be written in any case and without `RL-`.
#[must_use]
pub fn explain(code: &str) -> Option<&'static str> {
    let code = normal(code);
    pages()
        .find(|(known, _)| *known == code)
        .map(|(_, page)| page)
}

/// Codes that `code` may have meant: of the same letter, else all.
#[must_use]
pub fn near_codes(code: &str) -> Vec<&'static str> {
    let code = normal(code);
    let letter = code.chars().nth(3);
    let known: Vec<&'static str> = pages().map(|(known, _)| known).collect();
    let near: Vec<&'static str> = known
        .iter()
        .copied()
        .filter(|known| known.chars().nth(3) == letter)
        .collect();
    if near.is_empty() { known } else { near }
}

fn normal(code: &str) -> String {
    let code = code.trim().to_ascii_uppercase();
    let bare = code
        .strip_prefix("RL-")
        .or(code.strip_prefix("RL"))
        .unwrap_or(&code);
    format!("RL-{bare}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_page_has_a_title_a_cause_and_a_way_out() {
        let codes: Vec<&str> = pages().map(|(code, _)| code).collect();
        assert!(codes.len() >= 30, "{codes:?}");
        let mut sorted = codes.clone();
        sorted.sort_unstable();
        sorted.dedup();
        assert_eq!(sorted.len(), codes.len(), "two pages have one code");
        for (code, page) in pages() {
            assert_eq!(code.len(), 6, "{code}");
            let title = page.lines().next().unwrap();
            assert!(title.len() > 8 && !title.ends_with('.'), "{title}");
            for part in [
                "\nWhat happens\n",
                "\nWhy\n",
                "\nWhat to do\n",
                "\nWhat rl does\n",
            ] {
                assert!(page.contains(part), "{code} lacks {part:?}");
            }
            assert!(
                page.lines().all(|line| line.chars().count() <= 100),
                "{code} has a long line"
            );
        }
    }

    #[test]
    fn codes_are_found_however_they_are_written() {
        for written in ["RL-S01", "rl-s01", " s01 ", "RLS01"] {
            assert!(
                explain(written).unwrap().starts_with("RL-S01 "),
                "{written}"
            );
        }
        assert_eq!(explain("RL-S99"), None);
        assert!(near_codes("s99").contains(&"RL-S01") && !near_codes("s99").contains(&"RL-U01"));
        assert!(near_codes("?").contains(&"RL-U01"));
    }
}
