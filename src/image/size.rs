//! Sizes as Docker writes them: `64m`, `2g`. A letter is a power of 1024.

/// So many bytes, if it is a size and there are so many.
pub fn bytes(text: &str) -> Option<u64> {
    let text = text.to_lowercase();
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(end);
    let shift = match unit {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::bytes;

    #[test]
    fn units_are_powers_of_1024() {
        for (text, size) in
            [("7", 7), ("7b", 7), ("2K", 2048), ("500m", 500 << 20), ("1GiB", 1 << 30), ("3tb", 3 << 40)]
        {
            assert_eq!(bytes(text), Some(size), "{text}");
        }
    }

    #[test]
    fn what_is_no_size() {
        for text in ["", "m", "-1", "1.5g", "1 g", "x", "5bb", "5kbb", "5ib", "99999999t"] {
            assert_eq!(bytes(text), None, "{text:?}");
        }
    }
}
