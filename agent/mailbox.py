"""Who runs a recipient's mailbox, by the domain of the address or by its MX: a bounded set of names, so that it can be
a label."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

OTHER = "other"
# What is shown of a domain whose MX is not known yet. Within the ledger such a domain has a label of its own, so that
# its counts can be found again.
UNRESOLVED = "unresolved"
PENDING = "?"

_COUNTRIES = (
    "ae", "at", "be", "ca", "ch", "cl", "cn", "co.id", "co.il", "co.in", "co.jp", "co.kr", "co.nz", "co.th", "co.uk",
    "co.za", "com.ar", "com.au", "com.br", "com.hk", "com.mx", "com.my", "com.ph", "com.sg", "com.tr", "com.tw",
    "com.vn", "cz", "de", "dk", "es", "fi", "fr", "gr", "hu", "ie", "in", "it", "jp", "kr", "lv", "my", "nl", "no",
    "pe", "ph", "pl", "pt", "ro", "rs", "ru", "sa", "se", "sg", "sk",
)  # fmt: skip


def _regional(*names: str) -> tuple[str, ...]:
    return tuple(f"{name}.{country}" for name in names for country in _COUNTRIES)


_DOMAINS: dict[str, tuple[str, ...]] = {
    "gmail": ("gmail.com", "googlemail.com"),
    "microsoft": (
        "outlook.com", "hotmail.com", "live.com", "msn.com", "passport.com", "windowslive.com",
        *_regional("outlook", "hotmail", "live"),
    ),
    "yahoo": (
        "yahoo.com", "ymail.com", "rocketmail.com", "myyahoo.com", "aol.com", "aim.com", "aol.co.uk", "aol.de",
        "aol.fr", "aol.it", "verizon.net", "netscape.net", "sky.com", *_regional("yahoo"),
    ),
    "yahoo_japan": ("yahoo.co.jp", "ybb.ne.jp", "ymail.ne.jp"),
    "apple": ("icloud.com", "me.com", "mac.com"),
    "proton": ("proton.me", "protonmail.com", "protonmail.ch", "pm.me"),
    "fastmail": ("fastmail.com", "fastmail.fm", "sent.com", "messagingengine.com"),
    "zoho": ("zoho.com", "zohomail.com", "zoho.eu", "zohomail.eu", "zoho.in", "zohomail.in"),
    "gmx": (
        "gmx.de", "gmx.net", "gmx.at", "gmx.ch", "gmx.com", "gmx.us", "gmx.eu", "gmx.org", "gmx.info", "gmx.fr",
        "gmx.co.uk", "gmx.es", "web.de", "mail.com", "email.de", "caramail.com",
    ),
    "t_online": ("t-online.de", "magenta.de"),
    "freenet": ("freenet.de",),
    "ionos": ("online.de", "onlinehome.de"),
    "orange": ("orange.fr", "wanadoo.fr"),
    "free": ("free.fr", "freesbee.fr", "libertysurf.fr", "aliceadsl.fr"),
    "laposte": ("laposte.net",),
    "sfr": ("sfr.fr", "neuf.fr", "cegetel.net", "club-internet.fr", "numericable.fr"),
    "bouygues": ("bbox.fr",),
    "libero": ("libero.it", "iol.it", "inwind.it", "blu.it", "giallo.it", "virgilio.it"),
    "tim": ("tim.it", "alice.it", "tin.it"),
    "telenet": ("telenet.be",),
    "proximus": ("skynet.be", "proximus.be"),
    "ziggo": ("ziggo.nl", "home.nl", "quicknet.nl", "casema.nl", "upcmail.nl"),
    "kpn": ("kpnmail.nl", "planet.nl", "hetnet.nl", "kpnplanet.nl"),
    "bt": ("btinternet.com", "btopenworld.com", "talk21.com"),
    "virgin_media": ("virginmedia.com", "ntlworld.com", "blueyonder.co.uk", "virgin.net"),
    "bluewin": ("bluewin.ch",),
    "seznam": ("seznam.cz", "email.cz", "post.cz", "spoluzaci.cz"),
    "wp": ("wp.pl", "o2.pl", "tlen.pl"),
    "onet": ("onet.pl", "op.pl", "poczta.onet.pl", "vp.pl", "onet.eu", "poczta.fm"),
    "interia": ("interia.pl", "interia.eu", "interia.com", "poczta.interia.pl"),
    "telia": ("telia.com",),
    "ukr_net": ("ukr.net",),
    "mail_ru": ("mail.ru", "bk.ru", "inbox.ru", "list.ru", "internet.ru", "xmail.ru", "vk.com"),
    "yandex": ("yandex.ru", "yandex.com", "ya.ru", "yandex.by", "yandex.kz", "yandex.ua", "yandex.com.tr", "narod.ru"),
    "rambler": ("rambler.ru", "lenta.ru", "autorambler.ru", "myrambler.ru", "ro.ru"),
    "comcast": ("comcast.net", "xfinity.com"),
    "att": ("att.net", "sbcglobal.net", "bellsouth.net", "ameritech.net", "pacbell.net", "swbell.net", "prodigy.net"),
    "charter": ("charter.net", "spectrum.net", "rr.com", "twc.com", "roadrunner.com", "brighthouse.com"),
    "cox": ("cox.net",),
    "centurylink": ("centurylink.net", "q.com", "embarqmail.com"),
    "earthlink": ("earthlink.net", "mindspring.com"),
    "bell_canada": ("bell.net", "sympatico.ca"),
    "rogers": ("rogers.com",),
    "shaw": ("shaw.ca",),
    "telus": ("telus.net",),
    "videotron": ("videotron.ca",),
    "telstra": ("bigpond.com", "bigpond.net.au", "telstra.com"),
    "optus": ("optusnet.com.au",),
    "uol": ("uol.com.br", "bol.com.br"),
    "terra": ("terra.com.br", "terra.com"),
    "ig": ("ig.com.br",),
    "rediff": ("rediffmail.com", "rediff.com"),
    "tencent": ("qq.com", "foxmail.com", "vip.qq.com"),
    "netease": ("163.com", "126.com", "yeah.net", "188.com", "vip.163.com", "vip.126.com"),
    "sina": ("sina.com", "sina.cn", "vip.sina.com"),
    "sohu": ("sohu.com",),
    "china_mobile": ("139.com",),
    "naver": ("naver.com",),
    "kakao": ("daum.net", "hanmail.net", "kakao.com"),
    "docomo": ("docomo.ne.jp",),
    "au_kddi": ("ezweb.ne.jp", "au.com"),
    "softbank": ("softbank.ne.jp", "i.softbank.jp", "vodafone.ne.jp"),
    "nifty": ("nifty.com", "nifty.ne.jp"),
    "ocn": ("ocn.ne.jp",),
    "biglobe": ("biglobe.ne.jp",),
}  # fmt: skip

# Mail exchangers by the end of their name: the exchanger itself or anything below it. Security gateways have names of
# their own: it is they who accept or refuse, not the mailbox behind them.
_EXCHANGERS: dict[str, tuple[str, ...]] = {
    "gmail": ("google.com", "googlemail.com"),
    "microsoft": ("protection.outlook.com", "eo.outlook.com", "mx.microsoft", "partner.outlook.cn"),
    "yahoo": ("yahoodns.net",),
    "yahoo_japan": ("yahoo.co.jp",),
    "apple": ("mail.icloud.com",),
    "proton": ("protonmail.ch", "proton.ch", "proton.me"),
    "fastmail": ("messagingengine.com", "fastmail.com"),
    "zoho": (
        "zoho.com", "zoho.eu", "zoho.in", "zoho.com.au", "zoho.com.cn", "zoho.jp", "zoho.sa", "zohocloud.ca",
        "zohomail.com",
    ),
    "gmx": ("gmx.net", "web.de", "mail.com"),
    "ionos": (
        "kundenserver.de", "ionos.com", "ionos.de", "ionos.co.uk", "ionos.es", "ionos.fr", "ionos.it", "1and1.com",
        "1and1.co.uk", "1and1.fr", "1and1.es", "perfora.net",
    ),
    "t_online": ("t-online.de",),
    "freenet": ("freenet.de",),
    "strato": ("rzone.de", "strato.de"),
    "hetzner": ("your-server.de", "hetzner.com"),
    "mailbox_org": ("mailbox.org",),
    "infomaniak": ("infomaniak.ch",),
    "hostpoint": ("hostpoint.ch",),
    "ovh": ("ovh.net", "ovh.ca"),
    "gandi": ("gandi.net",),
    "orange": ("orange.fr", "wanadoo.fr"),
    "free": ("free.fr",),
    "laposte": ("laposte.net",),
    "sfr": ("sfr.fr", "neuf.fr"),
    "aruba": ("aruba.it", "arubabusiness.it"),
    "libero": ("libero.it",),
    "register_it": ("register.it",),
    "tim": ("tim.it", "alice.it", "tin.it"),
    "telenet": ("telenet.be",),
    "ziggo": ("ziggo.nl",),
    "kpn": ("kpnmail.nl",),
    "transip": ("transip.email", "transip.nl"),
    "one_com": ("one.com",),
    "simply": ("simply.com",),
    "loopia": ("loopia.se",),
    "bt": ("btinternet.com",),
    "virgin_media": ("virginmedia.com",),
    "bluewin": ("bluewin.ch",),
    "seznam": ("seznam.cz",),
    "wedos": ("wedos.net", "wedos.com"),
    "wp": ("wp.pl",),
    "onet": ("onet.pl",),
    "interia": ("interia.pl",),
    "home_pl": ("home.pl",),
    "ukr_net": ("ukr.net",),
    "mail_ru": ("mail.ru",),
    "yandex": ("yandex.ru", "yandex.net", "yandex.com"),
    "rambler": ("rambler.ru",),
    "comcast": ("comcast.net",),
    "charter": ("charter.net", "rr.com"),
    "cox": ("cox.net",),
    "godaddy": ("secureserver.net",),
    "rackspace": ("emailsrvr.com",),
    "namecheap": ("privateemail.com", "registrar-servers.com"),
    "titan": ("titan.email",),
    "hostinger": ("hostinger.com",),
    "dreamhost": ("dreamhost.com",),
    "migadu": ("migadu.com",),
    "amazon": tuple(f"inbound-smtp.{place}.amazonaws.com" for place in ("us-east-1", "us-west-2", "eu-west-1")),
    "uol": ("uol.com.br",),
    "terra": ("terra.com", "terra.com.br"),
    "locaweb": ("locaweb.com.br",),
    "rediff": ("rediffmail.com", "rediffmailpro.com"),
    "tencent": ("qq.com",),
    "alibaba": ("mxhichina.com", "aliyun.com"),
    "netease": ("163.com", "126.com", "netease.com", "163yun.com"),
    "sina": ("sina.com", "sina.com.cn"),
    "sohu": ("sohu.com",),
    "naver": ("naver.com", "worksmobile.com"),
    "kakao": ("kakao.com", "hanmail.net", "daum.net"),
    "docomo": ("docomo.ne.jp",),
    "softbank": ("softbank.ne.jp",),
    "sakura": ("sakura.ne.jp",),
    "mimecast": ("mimecast.com", "mimecast-offshore.com", "mimecast.co.za"),
    "proofpoint": ("pphosted.com", "ppe-hosted.com", "gpphosted.com", "proofpoint.com"),
    "barracuda": ("barracudanetworks.com", "barracuda.com", "cudaops.com"),
    "cisco_ironport": ("iphmx.com",),
    "symantec_cloud": ("messagelabs.com",),
    "trend_micro": ("trendmicro.com", "trendmicro.eu"),
    "sophos": ("sophos.com", "reflexion.net"),
    "forcepoint": ("mailcontrol.com",),
    "fortinet": ("fortimailcloud.com", "fortimail.com"),
    "hornetsecurity": ("hornetsecurity.com", "antispameurope.com", "hornetsecurity.net"),
    "spamexperts": ("antispamcloud.com", "spamexperts.com", "spamexperts.net", "spamexperts.eu"),
    "cloudflare": ("mx.cloudflare.net",),
    "retarus": ("retarus.com",),
}  # fmt: skip
_BY_EXCHANGER = {end: name for name, ends in _EXCHANGERS.items() for end in ends}

# Later rows win: Yahoo! Japan is another company than the Yahoo whose regional domains are listed before it.
_BY_DOMAIN = {domain: name for name, domains in _DOMAINS.items() for domain in domains}

MAILBOX_PROVIDERS = frozenset(_DOMAINS) | frozenset(_EXCHANGERS) | {OTHER}


def mailbox_provider(domain: str) -> str:
    """The mailbox provider that serves a recipient domain (lower case), ``other`` when it is none of the listed.

    One of ``MAILBOX_PROVIDERS``. Only the large consumer domains can be known from the name; a company's own domain
    may be hosted anywhere.
    """
    return _BY_DOMAIN.get(domain, OTHER)


def by_mx(exchanges: Iterable[tuple[int, str]]) -> str:
    """The mailbox provider, or the security gateway, that a domain's MX records name, as (preference, exchanger in
    lower case without final dot); ``other`` for none, a null MX (RFC 7505) and exchangers that are not listed.

    One of ``MAILBOX_PROVIDERS``. The lowest preference decides, since that is where mail goes (RFC 5321 section 5.1);
    within it the provider of most exchangers, then the first name.
    """
    listed = list(exchanges)
    lowest = min((preference for preference, _ in listed), default=0)
    votes = Counter(_of_exchanger(exchanger) for preference, exchanger in listed if preference == lowest)
    return min(votes, key=lambda name: (-votes[name], name), default=OTHER)


def _of_exchanger(exchanger: str) -> str:
    name = exchanger
    while name:
        if name in _BY_EXCHANGER:
            return _BY_EXCHANGER[name]
        name = name.partition(".")[2]
    return OTHER


def shown(mailbox_provider: str) -> str:
    """What anyone outside the ledger sees of a mailbox provider: a domain that waits for its MX is ``unresolved``."""
    return UNRESOLVED if mailbox_provider.startswith(PENDING) else mailbox_provider
