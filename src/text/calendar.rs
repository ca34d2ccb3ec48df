//! The date that a chat template may print: strftime in the C locale, as Python prints a local time without a zone.

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

struct Date {
    year: i64,
    /// 1 to 12.
    month: i64,
    day: i64,
    /// 1 to 366.
    day_of_year: i64,
    /// 0 is Sunday.
    weekday: i64,
    hour: i64,
    minute: i64,
    second: i64,
    since_1970: i64,
}

/// `format` with its directives replaced by the date of a local time, seconds since 1970 as its clock shows them. A `-`
/// behind the percent sign drops leading zeros. Directives that are not known stay as they are.
pub(super) fn strftime(format: &str, local_time: i64) -> String {
    Date::of(local_time).print(format)
}

impl Date {
    fn print(&self, format: &str) -> String {
        let mut text = String::new();
        let mut rest = format;
        while let Some(position) = rest.find('%') {
            text.push_str(&rest[..position]);
            rest = &rest[position + 1..];
            let unpadded = rest.strip_prefix('-');
            let directive = unpadded.unwrap_or(rest);
            match directive.chars().next().and_then(|letter| Some((letter, self.field(letter)?))) {
                Some((letter, field)) => {
                    let trimmed = match unpadded {
                        Some(_) if field.starts_with([' ', '0']) => {
                            match field.trim_start_matches([' ', '0']) {
                                "" => "0",
                                trimmed => trimmed,
                            }
                        }
                        _ => &field,
                    };
                    text.push_str(trimmed);
                    rest = &directive[letter.len_utf8()..];
                }
                None => text.push('%'),
            }
        }
        text + rest
    }

    /// Year and number of the week that begins on a Monday and has the year's first Thursday (ISO 8601).
    fn iso_week(&self) -> (i64, i64) {
        let weekday = (self.weekday + 6) % 7 + 1;
        let n_weeks = |year: i64| {
            let last_weekday = |year: i64| {
                (year + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400)).rem_euclid(7)
            };
            if last_weekday(year) == 4 || last_weekday(year - 1) == 3 { 53 } else { 52 }
        };
        match (self.day_of_year - weekday + 10).div_euclid(7) {
            0 => (self.year - 1, n_weeks(self.year - 1)),
            week if week > n_weeks(self.year) => (self.year + 1, 1),
            week => (self.year, week),
        }
    }

    /// Days to a date by the 400-year cycle that begins on 1 March 0000 (Hinnant, "chrono-compatible low-level date
    /// algorithms"). Times too far off for a date are taken as the nearest ones.
    fn of(unix_time: i64) -> Self {
        let limit = 100_000_000_000_000;
        let unix_time = unix_time.clamp(-limit, limit);
        let (days, seconds) = (unix_time.div_euclid(86_400), unix_time.rem_euclid(86_400));
        let shifted = days + 719_468;
        let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
        let year_of_era =
            (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_from_march = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * day_from_march + 2) / 153;
        let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
        let year = era * 400 + year_of_era + i64::from(month <= 2);
        let is_leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
        let day_of_year =
            if month > 2 { day_from_march + 60 + i64::from(is_leap) } else { day_from_march - 305 };
        Self {
            year,
            month,
            day: day_from_march - (153 * month_from_march + 2) / 5 + 1,
            day_of_year,
            weekday: (days + 4).rem_euclid(7),
            hour: seconds / 3_600,
            minute: seconds / 60 % 60,
            second: seconds % 60,
            since_1970: unix_time,
        }
    }

    fn field(&self, letter: char) -> Option<String> {
        let name = |names: &[&'static str], idx: i64| {
            usize::try_from(idx).ok().and_then(|idx| names.get(idx).copied())
        };
        let short = |name: &str| name[..3].to_owned();
        let hour_of_12 = (self.hour + 11) % 12 + 1;
        Some(match letter {
            'Y' => self.year.to_string(),
            'y' => format!("{:02}", self.year.rem_euclid(100)),
            'm' => format!("{:02}", self.month),
            'd' => format!("{:02}", self.day),
            'e' => format!("{:2}", self.day),
            'j' => format!("{:03}", self.day_of_year),
            'H' => format!("{:02}", self.hour),
            'I' => format!("{hour_of_12:02}"),
            'M' => format!("{:02}", self.minute),
            'S' => format!("{:02}", self.second),
            'p' => if self.hour < 12 { "AM" } else { "PM" }.to_owned(),
            'B' => name(&MONTHS, self.month - 1)?.to_owned(),
            'b' | 'h' => short(name(&MONTHS, self.month - 1)?),
            'A' => name(&DAYS, self.weekday)?.to_owned(),
            'a' => short(name(&DAYS, self.weekday)?),
            'w' => self.weekday.to_string(),
            'u' => ((self.weekday + 6) % 7 + 1).to_string(),
            'U' => format!("{:02}", (self.day_of_year + 6 - self.weekday).div_euclid(7)),
            'W' => format!("{:02}", (self.day_of_year + 6 - (self.weekday + 6) % 7).div_euclid(7)),
            'V' => format!("{:02}", self.iso_week().1),
            'G' => self.iso_week().0.to_string(),
            'g' => format!("{:02}", self.iso_week().0.rem_euclid(100)),
            'C' => format!("{:02}", self.year.div_euclid(100)),
            'k' => format!("{:2}", self.hour),
            'l' => format!("{hour_of_12:2}"),
            'P' => if self.hour < 12 { "am" } else { "pm" }.to_owned(),
            's' => self.since_1970.to_string(),
            // No parts of a second, and no zone.
            'f' => "000000".to_owned(),
            'z' | 'Z' => String::new(),
            'n' => "\n".to_owned(),
            't' => "\t".to_owned(),
            'c' => self.print("%a %b %e %H:%M:%S %Y"),
            'x' | 'D' => self.print("%m/%d/%y"),
            'X' | 'T' => self.print("%H:%M:%S"),
            'R' => self.print("%H:%M"),
            'r' => self.print("%I:%M:%S %p"),
            'F' => self.print("%Y-%m-%d"),
            '%' => "%".to_owned(),
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_c_library() {
        struct Case {
            unix_time: i64,
            text: &'static str,
        }
        let cases = [
            Case { unix_time: 0, text: "Thursday 01 January 1970 001 00:00:00 12 AM" },
            Case { unix_time: -1, text: "Wednesday 31 December 1969 365 23:59:59 11 PM" },
            Case { unix_time: 951_782_400, text: "Tuesday 29 February 2000 060 00:00:00 12 AM" },
            Case { unix_time: 951_868_800, text: "Wednesday 01 March 2000 061 00:00:00 12 AM" },
            Case { unix_time: 1_735_646_399, text: "Tuesday 31 December 2024 366 11:59:59 11 AM" },
            Case { unix_time: 4_107_542_400, text: "Monday 01 March 2100 060 00:00:00 12 AM" },
        ];
        for Case { unix_time, text } in cases {
            assert_eq!(strftime("%A %d %B %Y %j %H:%M:%S %I %p", unix_time), text);
        }
        assert_eq!(
            strftime("%-d/%-m %e %F %T %a %b %y 100%% %Q %", 0),
            "1/1  1 1970-01-01 00:00:00 Thu Jan 70 100% %Q %"
        );
        assert_eq!(strftime("%-H", 0), "0");
        // By Python's datetime.
        let all = "%c|%x|%X|%u%w|%U %W %V %G %g|%C|%k %l %P|%D %R %r|[%z%Z]%f";
        assert_eq!(
            strftime(all, 1_735_646_399),
            "Tue Dec 31 11:59:59 2024|12/31/24|11:59:59|22|52 53 01 2025 25|20|11 11 am|12/31/24 11:59 11:59:59 AM|[]000000"
        );
        assert_eq!(strftime("%U %W %V %G|%-e%-l", 1_104_537_600), "00 00 53 2004|112");
        strftime("%c%é%-", i64::MAX);
    }
}
