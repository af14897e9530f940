//! Whom an image's processes run as, by the image's own lists. Pure.

/// Numbers of a user inside, and where it is at home.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    pub uid: u32,
    pub gid: u32,
    /// The first is `gid`, as in containers.
    pub groups: Vec<u32>,
    pub home: String,
}

/// `wanted` is `USER[:GROUP]`, names or numbers; empty: root. `passwd` and `group` are the texts of the image's files.
///
/// # Errors
/// Names what the image does not know.
pub fn resolve(wanted: &str, passwd: &str, group: &str) -> Result<User, String> {
    let (name, of_group) = wanted.split_once(':').map_or((wanted, None), |(name, group)| (name, Some(group)));
    let name = if name.is_empty() { "0" } else { name };
    let entry = entries(passwd).find(|fields| fields.first() == Some(&name)).or_else(|| {
        let number = name.parse::<u32>().ok()?;
        entries(passwd).find(|fields| number_at(fields, 2) == Some(number))
    });
    let uid = entry.as_ref().and_then(|fields| number_at(fields, 2)).or_else(|| name.parse().ok());
    let uid = uid.ok_or_else(|| format!("the image's USER is {name:?}, which its /etc/passwd does not have"))?;
    let gid = match of_group.filter(|group| !group.is_empty()) {
        None => entry.as_ref().and_then(|fields| number_at(fields, 3)).unwrap_or(0),
        Some(named) => {
            let listed = entries(group).find(|fields| fields.first() == Some(&named)).and_then(|fields| number_at(&fields, 2));
            listed
                .or_else(|| named.parse().ok())
                .ok_or_else(|| format!("the image's USER has group {named:?}, which its /etc/group does not have"))?
        }
    };
    let login = entry.as_ref().map_or(name, |fields| fields[0]);
    let member = |fields: &Vec<&str>| fields.get(3).is_some_and(|members| members.split(',').any(|member| member == login));
    let others = entries(group).filter(member).filter_map(|fields| number_at(&fields, 2)).filter(|other| *other != gid);
    let groups = if of_group.is_some() { vec![gid] } else { std::iter::once(gid).chain(others).collect() };
    let home = entry.and_then(|fields| fields.get(5).map(|home| (*home).to_owned())).filter(|home| !home.is_empty());
    Ok(User { uid, gid, groups, home: home.unwrap_or_else(|| "/".to_owned()) })
}

fn entries(text: &str) -> impl Iterator<Item = Vec<&str>> {
    text.lines().map(|line| line.split(':').collect())
}

fn number_at(fields: &[&str], at: usize) -> Option<u32> {
    fields.get(at)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nada:x:1000:100:Ada:/home/ada:/bin/sh\nbroken\n";
    const GROUP: &str = "root:x:0:\nusers:x:100:\nwheel:x:10:root,ada\n";

    #[test]
    fn names_and_numbers_are_found() {
        let ada = User { uid: 1000, gid: 100, groups: vec![100, 10], home: "/home/ada".into() };
        assert_eq!(resolve("ada", PASSWD, GROUP), Ok(ada.clone()));
        assert_eq!(resolve("1000", PASSWD, GROUP), Ok(ada.clone()));
        assert_eq!(resolve("ada:wheel", PASSWD, GROUP), Ok(User { gid: 10, groups: vec![10], ..ada }));
        assert_eq!(resolve("", PASSWD, GROUP), Ok(User { uid: 0, gid: 0, groups: vec![0, 10], home: "/root".into() }));
        assert_eq!(resolve("7:8", "", ""), Ok(User { uid: 7, gid: 8, groups: vec![8], home: "/".into() }));
        assert_eq!(resolve("", "", ""), Ok(User { uid: 0, gid: 0, groups: vec![0], home: "/".into() }));
    }

    #[test]
    fn who_is_not_there_is_named() {
        assert!(resolve("eve", PASSWD, GROUP).unwrap_err().contains("eve"));
        assert!(resolve("ada:nobody", PASSWD, GROUP).unwrap_err().contains("/etc/group"));
    }
}
