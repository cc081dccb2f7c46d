//! Which user agents are not people: a table of what they call themselves, and the words that unknown ones
//! give themselves away with.
//!
//! It knows nothing of requests or caches. Invariant: the verdict depends on the text alone, so that it can be
//! cached by the text; needles are lower case and are looked for in the lower-cased text.

use super::Classification;

/// Where a needle must stand.
#[derive(Clone, Copy, PartialEq, Eq)]
enum At {
    /// Anywhere.
    Any,
    /// At the beginning: for names that also occur inside the user agents of people's browsers.
    Start,
}

struct Rule {
    needle: &'static str,
    at: At,
    reason: &'static str,
}

const fn any(needle: &'static str, reason: &'static str) -> Rule {
    Rule {
        needle,
        at: At::Any,
        reason,
    }
}

const fn start(needle: &'static str, reason: &'static str) -> Rule {
    Rule {
        needle,
        at: At::Start,
        reason,
    }
}

/// Fetch a page to show a card of it where somebody posted the link.
const PREVIEWS: &[Rule] = &[
    // Messages on Apple devices names both at once; Facebook and Twitter never do.
    any(
        "facebookexternalhit/1.1 facebot twitterbot/1.0",
        "link preview: iMessage",
    ),
    any("line-poker", "link preview: LINE"),
    any("facebookexternalhit", "link preview: Facebook"),
    any("facebookcatalog", "link preview: Facebook"),
    any("facebot", "link preview: Facebook"),
    any("meta-externalfetcher", "link preview: Meta"),
    any("telegrambot", "link preview: Telegram"),
    any("twitterbot", "link preview: X"),
    start("whatsapp", "link preview: WhatsApp"),
    any("slackbot", "link preview: Slack"),
    any("slack-imgproxy", "link preview: Slack"),
    any("discordbot", "link preview: Discord"),
    any("linkedinbot", "link preview: LinkedIn"),
    any("skypeuripreview", "link preview: Skype or Teams"),
    any("msteams-link-unfurl", "link preview: Teams"),
    any("redditbot", "link preview: Reddit"),
    any("pinterestbot", "link preview: Pinterest"),
    any("pinterest.com/bot.html", "link preview: Pinterest"),
    any("snap url preview", "link preview: Snapchat"),
    any("kakaotalk-scrap", "link preview: KakaoTalk"),
    any("viberbot", "link preview: Viber"),
    any("vkshare", "link preview: VK"),
    any("mastodon/", "link preview: Mastodon"),
    start("pleroma", "link preview: Pleroma"),
    start("misskey", "link preview: Misskey"),
    any("bluesky cardyb", "link preview: Bluesky"),
    any("synapse (bot", "link preview: Matrix"),
    any("matrix-media-repo", "link preview: Matrix"),
    any("iframely", "link preview: Iframely"),
    any("embedly", "link preview: Embedly"),
    any("bingpreview", "link preview: Bing"),
    any("google web preview", "link preview: Google"),
    any("developers.google.com/+/web/snippet", "link preview: Google"),
    any("google-pagerenderer", "link preview: Google"),
    any("yahoo link preview", "link preview: Yahoo"),
    any("xing-contenttabreceiver", "link preview: Xing"),
    start("tumblr/", "link preview: Tumblr"),
    start("rocket.chat", "link preview: Rocket.Chat"),
    any("mattermost-bot", "link preview: Mattermost"),
    any("notionembedder", "link preview: Notion"),
    any("opengraph", "link preview: Open Graph reader"),
    any("linkpreview", "link preview: by its name"),
    any("link-preview", "link preview: by its name"),
    any("link preview", "link preview: by its name"),
    any("unfurl", "link preview: by its name"),
];

/// Look for danger or for life: security scanners, mail gateways that follow links, uptime and load probes.
const SCANNERS: &[Rule] = &[
    any("nessus", "scanner: Nessus"),
    any("tenable", "scanner: Tenable"),
    any("openvas", "scanner: OpenVAS"),
    any("qualys", "scanner: Qualys"),
    any("acunetix", "scanner: Acunetix"),
    any("netsparker", "scanner: Netsparker"),
    any("nikto", "scanner: Nikto"),
    any("nuclei", "scanner: Nuclei"),
    any("sqlmap", "scanner: sqlmap"),
    any("wpscan", "scanner: WPScan"),
    any("masscan", "scanner: masscan"),
    any("zgrab", "scanner: ZGrab"),
    any("nmap scripting engine", "scanner: Nmap"),
    any("censysinspect", "scanner: Censys"),
    any("shodan", "scanner: Shodan"),
    any("expanse", "scanner: Palo Alto Expanse"),
    any("paloaltonetworks", "scanner: Palo Alto Networks"),
    any("internetmeasurement", "scanner: InternetMeasurement"),
    any("internet-measurement", "scanner: InternetMeasurement"),
    any("netcraft", "scanner: Netcraft"),
    any("leakix", "scanner: LeakIX"),
    any("l9explore", "scanner: LeakIX"),
    any("gobuster", "scanner: gobuster"),
    any("dirbuster", "scanner: DirBuster"),
    any("feroxbuster", "scanner: feroxbuster"),
    any("fuzz faster u fool", "scanner: ffuf"),
    any("wfuzz", "scanner: Wfuzz"),
    any("whatweb", "scanner: WhatWeb"),
    any("barracuda", "link scanner: Barracuda"),
    any("proofpoint", "link scanner: Proofpoint"),
    any("safelinks", "link scanner: Microsoft Safe Links"),
    any("safe links", "link scanner: Microsoft Safe Links"),
    any("mimecast", "link scanner: Mimecast"),
    any("forcepoint", "link scanner: Forcepoint"),
    any("fireeye", "link scanner: FireEye"),
    any("trendmicro", "link scanner: Trend Micro"),
    any("trend micro", "link scanner: Trend Micro"),
    any("symantec", "link scanner: Symantec"),
    any("sophos", "link scanner: Sophos"),
    any("ironport", "link scanner: Cisco IronPort"),
    any("virustotal", "link scanner: VirusTotal"),
    any("urlscan", "link scanner: urlscan"),
    any("phishtank", "link scanner: PhishTank"),
    any("google-safety", "link scanner: Google"),
    any("cloudflare-", "probe: Cloudflare"),
    any("uptimerobot", "probe: UptimeRobot"),
    any("uptime-kuma", "probe: Uptime Kuma"),
    any("better uptime", "probe: Better Stack"),
    any("better stack", "probe: Better Stack"),
    any("betterstack", "probe: Better Stack"),
    any("pingdom", "probe: Pingdom"),
    any("statuscake", "probe: StatusCake"),
    any("site24x7", "probe: Site24x7"),
    any("datadog", "probe: Datadog"),
    any("newrelicpinger", "probe: New Relic"),
    any("updown.io", "probe: updown.io"),
    any("hetrixtools", "probe: HetrixTools"),
    any("freshping", "probe: Freshping"),
    any("googlestackdrivermonitoring", "probe: Google Cloud"),
    any("googlehc/", "probe: Google Cloud"),
    any("elb-healthchecker", "probe: AWS load balancer"),
    any("amazon-route53-health-check", "probe: AWS Route 53"),
    any("kube-probe", "probe: Kubernetes"),
    any("blackbox exporter", "probe: Prometheus"),
    any("prometheus/", "probe: Prometheus"),
    any("zabbix", "probe: Zabbix"),
    any("check_http/", "probe: Nagios"),
    any("nagios", "probe: Nagios"),
    any("catchpoint", "probe: Catchpoint"),
    any("dynatrace", "probe: Dynatrace"),
    any("thousandeyes", "probe: ThousandEyes"),
    any("checkly", "probe: Checkly"),
    any("gomezagent", "probe: Gomez"),
    any("chrome-lighthouse", "probe: Lighthouse"),
    any("gtmetrix", "probe: GTmetrix"),
    any("ptst/", "probe: WebPageTest"),
];

/// Read the web for an index, a data set or an archive.
const CRAWLERS: &[Rule] = &[
    any("googlebot", "crawler: Google"),
    any("google-inspectiontool", "crawler: Google"),
    any("googleother", "crawler: Google"),
    any("google-extended", "crawler: Google"),
    any("adsbot-google", "crawler: Google"),
    any("mediapartners-google", "crawler: Google"),
    any("apis-google", "crawler: Google"),
    any("feedfetcher-google", "crawler: Google"),
    any("appengine-google", "crawler: Google App Engine"),
    any("bingbot", "crawler: Bing"),
    any("msnbot", "crawler: Bing"),
    any("adidxbot", "crawler: Bing"),
    any("yandex.com/bots", "crawler: Yandex"),
    any("baiduspider", "crawler: Baidu"),
    any("duckduckbot", "crawler: DuckDuckGo"),
    any("applebot", "crawler: Apple"),
    any("slurp", "crawler: Yahoo"),
    any("sogou web spider", "crawler: Sogou"),
    any("bytespider", "crawler: ByteDance"),
    any("petalbot", "crawler: Petal"),
    any("amazonbot", "crawler: Amazon"),
    any("gptbot", "crawler: OpenAI"),
    any("chatgpt-user", "crawler: OpenAI"),
    any("oai-searchbot", "crawler: OpenAI"),
    any("claudebot", "crawler: Anthropic"),
    any("claude-user", "crawler: Anthropic"),
    any("claude-web", "crawler: Anthropic"),
    any("anthropic-ai", "crawler: Anthropic"),
    any("perplexity", "crawler: Perplexity"),
    any("cohere-ai", "crawler: Cohere"),
    any("meta-externalagent", "crawler: Meta"),
    any("ccbot", "crawler: Common Crawl"),
    any("ahrefs", "crawler: Ahrefs"),
    any("semrush", "crawler: Semrush"),
    any("mj12bot", "crawler: Majestic"),
    any("screaming frog", "crawler: Screaming Frog"),
    any("ia_archiver", "crawler: Internet Archive"),
    any("archive.org_bot", "crawler: Internet Archive"),
    any("heritrix", "crawler: Heritrix"),
    any("httrack", "crawler: HTTrack"),
    any("nutch", "crawler: Nutch"),
    any("scrapy", "crawler: Scrapy"),
    start("feedly", "crawler: Feedly"),
];

/// HTTP libraries, command lines, load generators and driven browsers.
const TOOLS: &[Rule] = &[
    start("curl/", "tool: curl"),
    any("libcurl", "tool: curl"),
    start("wget", "tool: Wget"),
    start("aria2/", "tool: aria2"),
    start("httpie/", "tool: HTTPie"),
    any("python-requests", "tool: Python requests"),
    any("python-urllib", "tool: Python urllib"),
    any("python-httpx", "tool: Python HTTPX"),
    any("aiohttp", "tool: Python aiohttp"),
    start("python/", "tool: Python"),
    start("go-http-client", "tool: Go"),
    any("okhttp", "tool: OkHttp"),
    start("java/", "tool: Java"),
    start("java-http-client", "tool: Java"),
    any("apache-httpclient", "tool: Apache HttpClient"),
    start("jakarta commons-httpclient", "tool: Apache HttpClient"),
    any("reactornetty", "tool: Reactor Netty"),
    start("kotlin", "tool: Kotlin"),
    start("ktor-client", "tool: Ktor"),
    start("axios/", "tool: axios"),
    any("node-fetch", "tool: Node.js"),
    any("node-superagent", "tool: Node.js"),
    start("undici", "tool: Node.js"),
    start("node", "tool: Node.js"),
    start("got (", "tool: Node.js"),
    start("deno/", "tool: Deno"),
    start("bun/", "tool: Bun"),
    any("postmanruntime", "tool: Postman"),
    any("insomnia/", "tool: Insomnia"),
    any("libwww-perl", "tool: Perl"),
    start("lwp", "tool: Perl"),
    start("ruby", "tool: Ruby"),
    any("faraday", "tool: Ruby"),
    start("http.rb", "tool: Ruby"),
    start("php", "tool: PHP"),
    any("guzzlehttp", "tool: PHP"),
    start("symfony", "tool: PHP"),
    start("wordpress", "tool: WordPress"),
    start("reqwest", "tool: Rust"),
    start("hyper/", "tool: Rust"),
    start("ureq/", "tool: Rust"),
    start("dart/", "tool: Dart"),
    start("dalvik/", "tool: Android HTTP library"),
    any("cfnetwork/", "tool: Apple HTTP library"),
    any("winhttp", "tool: Windows HTTP library"),
    any("windowspowershell", "tool: PowerShell"),
    any("powershell/", "tool: PowerShell"),
    start("microsoft bits", "tool: Windows BITS"),
    start("microsoft office", "tool: Microsoft Office"),
    start("apachebench", "tool: ApacheBench"),
    any("jmeter", "tool: JMeter"),
    start("k6/", "tool: k6"),
    any("grafana k6", "tool: k6"),
    start("wrk", "tool: wrk"),
    start("hey/", "tool: hey"),
    start("vegeta", "tool: Vegeta"),
    any("locust", "tool: Locust"),
    any("headlesschrome", "tool: headless Chrome"),
    any("phantomjs", "tool: PhantomJS"),
    any("puppeteer", "tool: Puppeteer"),
    any("playwright", "tool: Playwright"),
    any("selenium", "tool: Selenium"),
    any("cypress/", "tool: Cypress"),
];

/// In this order: a preview's name is the most telling, and "bot" alone the least.
const TABLES: &[(Classification, &[Rule])] = &[
    (Classification::Preview, PREVIEWS),
    (Classification::Scanner, SCANNERS),
    (Classification::Crawler, CRAWLERS),
    (Classification::Tool, TOOLS),
];

/// Says what a user agent is and why, or `None` when nothing about it speaks against a person.
///
/// `lower` is the user agent in ASCII lower case.
pub(super) fn verdict(lower: &str) -> Option<(Classification, &'static str)> {
    for (classification, rules) in TABLES {
        let hit = rules.iter().find(|rule| match rule.at {
            At::Any => lower.contains(rule.needle),
            At::Start => lower.starts_with(rule.needle),
        });
        if let Some(rule) = hit {
            return Some((*classification, rule.reason));
        }
    }
    if names_itself_a_bot(lower) {
        return Some((Classification::Crawler, "crawler: calls itself one"));
    }
    if ["crawler", "crawl/", "spider", "scraper"]
        .iter()
        .any(|word| lower.contains(word))
    {
        return Some((Classification::Crawler, "crawler: calls itself one"));
    }
    // People's browsers do not tell where to complain about them.
    if lower.contains("+http://") || lower.contains("+https://") {
        return Some((Classification::Crawler, "crawler: gives a contact address"));
    }
    None
}

/// Whether a word of the text ends in "bot". Phones of the maker Cubot do, and are people's.
fn names_itself_a_bot(lower: &str) -> bool {
    lower
        .split(|c: char| !c.is_ascii_alphabetic())
        .any(|word| word.ends_with("bot") && word != "cubot")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_needle_is_lower_case_so_that_it_can_match() {
        for (_, rules) in TABLES {
            for rule in *rules {
                assert_eq!(rule.needle, rule.needle.to_ascii_lowercase());
                assert!(!rule.needle.is_empty());
            }
        }
    }

    #[test]
    fn no_needle_is_hidden_by_an_earlier_one_of_its_table() {
        for (_, rules) in TABLES {
            for (i, later) in rules.iter().enumerate() {
                for earlier in &rules[..i] {
                    let hidden = match (earlier.at, later.at) {
                        (At::Any, _) => later.needle.contains(earlier.needle),
                        (At::Start, At::Start) => later.needle.starts_with(earlier.needle),
                        (At::Start, At::Any) => false,
                    };
                    assert!(
                        !hidden || earlier.reason == later.reason,
                        "{} is never reached: {} comes first",
                        later.needle,
                        earlier.needle
                    );
                }
            }
        }
    }

    #[test]
    fn a_phone_of_the_maker_cubot_is_no_bot() {
        assert!(
            verdict("mozilla/5.0 (linux; android 13; cubot_p80) applewebkit/537.36 mobile safari").is_none()
        );
        assert!(verdict("mozilla/5.0 (compatible; somebot/1.0)").is_some());
    }
}
