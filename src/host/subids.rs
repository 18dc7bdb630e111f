//! Ids that an administrator has given to an account for its own containers: `/etc/subuid` and `/etc/subgid`.

use super::ids::IDS;

/// Where Debian's useradd begins.
const FIRST: u32 = 100_000;

/// A range of ids of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// The first one.
    pub first: u32,
    /// How many.
    pub count: u32,
}

/// Of a file's text the ranges of an account, cut to what a namespace needs besides the account itself; or how many there are, if they are
/// too few.
pub fn subordinate(text: &str, name: &str, uid: u32) -> Result<Vec<Range>, u32> {
    let (mut ranges, mut missing) = (Vec::new(), IDS - 1);
    for range in text.lines().filter_map(|line| of_line(line, name, uid)) {
        let count = range.count.min(missing);
        if count > 0 {
            ranges.push(Range { count, ..range });
        }
        missing -= count;
    }
    if missing == 0 { Ok(ranges) } else { Err(IDS - 1 - missing) }
}

/// Where a range begins that no account has in these texts.
pub fn free(texts: &[&str]) -> u32 {
    let ends = texts.iter().flat_map(|text| text.lines()).filter_map(|line| {
        let mut fields = line.trim().split(':').skip(1).map(|field| field.parse::<u32>().ok());
        fields.next()??.checked_add(fields.next()??)
    });
    ends.chain([FIRST]).max().unwrap_or(FIRST)
}

/// `account:first:count`, with the account's name or number.
fn of_line(line: &str, name: &str, uid: u32) -> Option<Range> {
    let mut fields = line.trim().split(':');
    let account = fields.next()?;
    if account != name && account.parse() != Ok(uid) {
        return None;
    }
    let (first, count) = (fields.next()?.parse::<u32>().ok()?, fields.next()?.parse::<u32>().ok()?);
    first.checked_add(count).map(|_| Range { first, count })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_s_range_is_given_twice() {
        assert_eq!(free(&["", ""]), 100_000);
        assert_eq!(free(&["alice:100000:65536\nbob:165536:65536\n", "alice:100000:65536\n# x\n"]), 231_072);
        assert_eq!(free(&["", "carol:300000:10"]), 300_010);
    }

    #[test]
    fn ranges_of_an_account() {
        let range = |first, count| Range { first, count };
        let text = "bob:100000:65536\nalice:165536:65536\n";
        assert_eq!(subordinate(text, "alice", 1001), Ok(vec![range(165_536, 65_535)]));
        // By number, and in pieces; what is more than needed stays out.
        let text = "# a remark\n1001:200000:60000\nalice:300000:60000\nalice:400000:60000\n";
        assert_eq!(subordinate(text, "alice", 1001), Ok(vec![range(200_000, 60_000), range(300_000, 5_535)]));
        for (text, found) in [
            ("", 0),
            ("bob:100000:65536\n", 0),
            ("alice:100000:1000\n", 1000),
            ("alice:100000\nalice:x:65536\n", 0),
            ("alice:4294967295:65536\n", 0),
        ] {
            assert_eq!(subordinate(text, "alice", 1001), Err(found), "{text}");
        }
    }
}
