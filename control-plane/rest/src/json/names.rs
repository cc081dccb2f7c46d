//! Enum values in JSON: lower case, without the prefix that proto style repeats from the type's name.

use prost_reflect::{EnumDescriptor, EnumValueDescriptor};

/// The JSON name of a value: `active` for `CODE_STATUS_ACTIVE` of `CodeStatus`.
pub(crate) fn enum_json_name(value: &EnumValueDescriptor) -> String {
    let prefix = upper_snake(value.parent_enum().name());
    let short = value
        .name()
        .strip_prefix(&prefix)
        .and_then(|rest| rest.strip_prefix('_'));
    // `V_2` of an enum `V` would be `2`, which reads as a number.
    let short = short.filter(|rest| rest.starts_with(|first: char| first.is_ascii_alphabetic()));
    short.unwrap_or(value.name()).to_ascii_lowercase()
}

/// The JSON names of an enum in the order of declaration.
pub(crate) fn enum_json_names(descriptor: &EnumDescriptor) -> Vec<String> {
    descriptor.values().map(|value| enum_json_name(&value)).collect()
}

/// The number of the value with this JSON name.
pub(crate) fn enum_number(descriptor: &EnumDescriptor, name: &str) -> Option<i32> {
    descriptor
        .values()
        .find(|value| enum_json_name(value) == name)
        .map(|value| value.number())
}

/// `IpPrivacy` is `IP_PRIVACY`, `HTTPMethod` is `HTTP_METHOD`.
fn upper_snake(name: &str) -> String {
    let mut snake = String::with_capacity(name.len() + 4);
    let mut chars = name.chars().peekable();
    let mut previous = None;
    while let Some(c) = chars.next() {
        let starts_word = c.is_ascii_uppercase()
            && previous.is_some_and(|before: char| {
                let acronym_goes_on =
                    before.is_ascii_uppercase() && !chars.peek().is_some_and(char::is_ascii_lowercase);
                before != '_' && !acronym_goes_on
            });
        if starts_word {
            snake.push('_');
        }
        snake.push(c.to_ascii_uppercase());
        previous = Some(c);
    }
    snake
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_name_becomes_the_prefix_of_its_values() {
        for (name, prefix) in [
            ("CodeStatus", "CODE_STATUS"),
            ("IpPrivacy", "IP_PRIVACY"),
            ("HTTPMethod", "HTTP_METHOD"),
            ("V2Mode", "V2_MODE"),
            ("X", "X"),
        ] {
            assert_eq!(upper_snake(name), prefix);
        }
    }

    #[test]
    fn values_are_lower_case_without_their_prefix_and_found_by_that_name_only() {
        let schema = crate::schema::test_schema();
        let status = schema
            .pool
            .get_enum_by_name("qrelay.v1.DeliveryStatus")
            .expect("known");
        assert_eq!(
            enum_json_names(&status),
            ["unspecified", "retrying", "succeeded", "given_up"]
        );
        assert_eq!(enum_number(&status, "given_up"), Some(3));
        for name in [
            "GIVEN_UP",
            "DELIVERY_STATUS_GIVEN_UP",
            "delivery_status_given_up",
            "3",
            "",
        ] {
            assert_eq!(enum_number(&status, name), None, "{name}");
        }
    }
}
