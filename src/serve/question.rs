//! Questions for names, and answers (RFC 1035).

use std::net::Ipv4Addr;

/// Header of a message.
const HEADER: usize = 12;
/// Types of records, in the one class that there is.
const A: u16 = 1;
const INTERNET: u16 = 1;
/// For how long an answer may be kept: as long as the instance lives, but who knows.
const SECONDS: u32 = 60;

/// A question (RFC 1035, section 4).
#[derive(Debug, PartialEq, Eq)]
pub struct Question<'a> {
    /// The message up to and with its one question.
    message: &'a [u8],
    /// In small letters, without a dot at its end.
    pub name: String,
    kind: u16,
}

/// What is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    Address(Ipv4Addr),
    /// The name is there, and has nothing of that kind.
    Nothing,
    NoSuchName,
    /// Ask again.
    Failure,
}

impl<'a> Question<'a> {
    /// `None` for what is no question.
    pub fn parse(query: &'a [u8]) -> Option<Self> {
        let number = |at: usize| Some(u16::from_be_bytes([*query.get(at)?, *query.get(at + 1)?]));
        // a query, of the usual kind, with one question
        if number(2)? & 0xf800 != 0 || number(4)? != 1 {
            return None;
        }
        let mut at = HEADER;
        let mut labels = Vec::new();
        loop {
            let length = usize::from(*query.get(at)?);
            at += 1;
            if length == 0 {
                break;
            }
            // a question has nothing before it that it could point to
            let label = query.get(at..at + length).filter(|_| length < 64)?;
            labels.push(String::from_utf8_lossy(label).to_ascii_lowercase());
            at += length;
        }
        let (kind, class) = (number(at)?, number(at + 2)?);
        let message = query.get(..at + 4)?;
        let name = labels.join(".");
        (class == INTERNET && name.len() <= 253).then_some(Question { message, name, kind })
    }

    /// Whether it is for the one kind of record that names have here.
    pub fn is_for_address(&self) -> bool {
        self.kind == A
    }

    /// The message that says so.
    pub fn answer(&self, answer: Answer) -> Vec<u8> {
        let code = match answer {
            Answer::Address(_) | Answer::Nothing => 0,
            Answer::Failure => 2,
            Answer::NoSuchName => 3,
        };
        let mut bytes = self.message.to_vec();
        // a response, recursion as desired and available
        bytes[2] = 0x80 | (bytes[2] & 0x01);
        bytes[3] = 0x80 | code;
        bytes[6..HEADER].fill(0);
        if let Answer::Address(address) = answer {
            bytes[7] = 1;
            // the name is where the question has it
            bytes.extend([0xc0, 0x0c]);
            bytes.extend(A.to_be_bytes());
            bytes.extend(INTERNET.to_be_bytes());
            bytes.extend(SECONDS.to_be_bytes());
            bytes.extend([0, 4]);
            bytes.extend(address.octets());
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(tail: &[u8]) -> Vec<u8> {
        [&[7, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 1], tail].concat()
    }

    #[test]
    fn a_question_is_answered_with_an_address() {
        let question = query(b"\x03Api\x07example\0\0\x01\0\x01");
        let bytes = [&question[..], &[0; 11]].concat();
        let parsed = Question::parse(&bytes).unwrap();
        assert_eq!(parsed.name, "api.example");
        assert!(parsed.is_for_address());
        let answer = parsed.answer(Answer::Address(Ipv4Addr::new(198, 18, 1, 1)));
        assert_eq!(answer[..12], [7, 7, 0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]);
        assert_eq!(answer.len(), question.len() + 16, "without the additional record");
        assert!(answer.ends_with(&[0, 4, 198, 18, 1, 1]));
        let none = parsed.answer(Answer::NoSuchName);
        assert_eq!(none[..8], [7, 7, 0x81, 0x83, 0, 1, 0, 0]);
    }

    #[test]
    fn what_is_no_question_gets_no_answer() {
        let pointing = query(b"\xc0\x0c\0\x01\0\x01");
        let cut = query(b"\x08Reg");
        let chaos = query(b"\x01a\0\0\x01\0\x03");
        let long = query(&[&b"\x3f".repeat(64 * 5)[..], b"\0\0\x01\0\x01"].concat());
        let response = [7, 7, 0x81, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 1];
        for wrong in [&b""[..], &[0; 12], &pointing, &cut, &chaos, &long, &response] {
            assert_eq!(Question::parse(wrong), None);
        }
    }
}
