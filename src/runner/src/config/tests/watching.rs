//! `[watch]` and `[notifiers.NAME]`: what is taken, and what is refused in which words.

use super::*;

#[test]
fn watches_and_notifiers_are_checked_and_shown() {
    let text = "[watch]\nstuck_factor = 3\nstuck_after = \"2h\"\nqueue_age_max = \"unlimited\"\nflapping_changes_max = 0\n\
        [notifiers.ops]\nkind = \"command\"\ncommand = [\"/bin/page\", \"-x\"]\nwatches = \"all\"\noutcomes = \"failed,timed_out\"\n\
        [notifiers.hook]\nkind = \"http\"\nurl = \"https://h.example/x\"\nsecret_credential = \"hook\"\nnames = [\"build*\"]\n\
        [notifiers.mail]\nkind = \"email\"\nto = [\"ops@example.org\"]\nwatches = [\"stuck_job\"]\n";
    let config = resolve(text).unwrap();
    assert_eq!(config.watch.rules.stuck_factor, Some(300));
    assert_eq!((config.watch.rules.queue_age_max_ms, config.watch.rules.flapping_changes_max), (None, None));
    assert_eq!(config.notifiers["ops"].jobs.outcomes, ["failed", "timed_out"]);
    assert_eq!(config.notifiers["ops"].watches.len(), 5);
    let shown = resolve(&config.show()).unwrap();
    assert_eq!((&shown.watch, &shown.notifiers), (&config.watch, &config.notifiers));
    for (text, part) in [
        ("[watch]\nevry = \"1s\"", "did you mean \"every\"?"),
        ("[watch]\nevery = \"1ms\"", "watch.every: 1ms is out of range; give 1s to 1h"),
        ("[watch]\nstuck_factor = 0.5", "watch.stuck_factor: 0.5 is out of range; give 1 to 1000, or 0"),
        ("[watch]\nfailure_rate_max = 200", "watch.failure_rate_max: 200 is out of range"),
        ("[watch]\nfailure_jobs_min = -1", "watch.failure_jobs_min: -1 is out of range"),
        ("[notifiers.a]", "kind is missing; give one of command, http, email"),
        ("[notifiers.a]\nkind = \"comand\"", "did you mean \"command\"?"),
        ("[notifiers.a]\nkind = \"command\"", "is missing; give a program"),
        ("[notifiers.a]\nkind = \"command\"\ncommand = [\"page\"]", "\"page\" is not an absolute path"),
        ("[notifiers.a]\nkind = \"command\"\ncommand = [\"/p\"]\nurl = \"http://x\"", "belongs to kind = \"http\""),
        ("[notifiers.a]\nkind = \"http\"\nurl = \"ftp://x/\"", "is neither http nor https"),
        ("[notifiers.a]\nkind = \"http\"\nurl = \"http://me:pw@x/\"", "holds a user or password"),
        ("[notifiers.a]\nkind = \"http\"\nurl = \"http://x/\"\nsecret_file = \"s\"", "\"s\" is relative"),
        ("[notifiers.a]\nkind = \"email\"\nto = [\"a@b, c@d\"]", "is not a plain mail address"),
        ("[notifiers.a]\nkind = \"email\"\nto = [\"a@b\\nBcc: c@d\"]", "is not a plain mail address"),
        ("[notifiers.a]\nkind = \"email\"", "to is missing"),
        ("[notifiers.a]\nkind = \"command\"\ncommand = [\"/p\"]\noutcomes = [\"faild\"]", "did you mean \"failed\"?"),
        ("[notifiers.a]\nkind = \"command\"\ncommand = [\"/p\"]\nwatches = [\"stuck\"]", "\"stuck\" is not a watch"),
        (
            "[notifiers.a]\nkind = \"command\"\ncommand = [\"/p\"]\nrate_max = 0",
            "0 is out of range; give a whole number from 1",
        ),
    ] {
        let problems = resolve(text).unwrap_err().to_string();
        assert!(problems.contains(part), "{text}: {problems}");
        assert!(!problems.contains("pw@"), "{problems}");
    }
}
