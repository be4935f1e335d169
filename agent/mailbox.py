"""Who runs a recipient's mailbox, by the domain of the address: a bounded set of names, so that it can be a label."""

from __future__ import annotations

OTHER = "other"

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

# Later rows win: Yahoo! Japan is another company than the Yahoo whose regional domains are listed before it.
_BY_DOMAIN = {domain: name for name, domains in _DOMAINS.items() for domain in domains}

MAILBOX_PROVIDERS = frozenset(_DOMAINS) | {OTHER}


def mailbox_provider(domain: str) -> str:
    """The mailbox provider that serves a recipient domain (lower case), ``other`` when it is none of the listed.

    One of ``MAILBOX_PROVIDERS``. Only the large consumer domains can be known from the name; a company's own domain
    may be hosted anywhere.
    """
    return _BY_DOMAIN.get(domain, OTHER)
