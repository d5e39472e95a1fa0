"""Query parameters that do nothing but track: ad networks' click ids, newsletters' and campaigns' labels.

A name stands here when its owner documents it as a tracking label and no site is known to choose a page by it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from infra.errors import ConfigError

NAME = re.compile(r"[^\s&=?#*]+\*?")
PREFIXES = (
    "utm_",  # Google Analytics and all who followed it
    "mtm_",  # Matomo, and as Piwik before
    "pk_",
    "piwik_",
    "hsa_",  # HubSpot ads
    "vero_",
    "oly_",  # Omeda
    "guce_",  # Yahoo's consent pages
    "fb_action_",
    "_branch_",
    "hmb_",
    "at_custom",  # Piano, before AT Internet
    "trk_",
)
NAMES = (
    "_ga",  # Google
    "_gl",
    "gclid",
    "gclsrc",
    "dclid",
    "gbraid",
    "wbraid",
    "gad_source",
    "gad_campaignid",
    "srsltid",
    "fbclid",  # Meta
    "fb_source",
    "fb_aggregation_id",
    "igshid",
    "igsh",
    "mibextid",
    "msclkid",  # Microsoft
    "twclid",  # X
    "ref_src",
    "ttclid",  # TikTok
    "li_fat_id",  # LinkedIn
    "sccid",  # Snapchat
    "rdt_cid",  # Reddit
    "epik",  # Pinterest
    "yclid",  # Yandex
    "ysclid",
    "ymclid",
    "_openstat",
    "s_kwcid",  # Adobe
    "ef_id",
    "wickedid",
    "irclickid",  # impact.com
    "mkt_tok",  # Marketo
    "mc_cid",  # Mailchimp
    "mc_eid",
    "_hsenc",  # HubSpot
    "_hsmi",
    "__hssc",
    "__hstc",
    "__hsfp",
    "hsctatracking",
    "ml_subscriber",  # MailerLite
    "ml_subscriber_hash",
    "_kx",  # Klaviyo
    "__s",  # Drip
    "dm_i",  # Dotdigital
    "guccounter",
    "ga_source",
    "ga_medium",
    "ga_term",
    "ga_content",
    "ga_campaign",
    "_gid",
    "_gac",
    "action_object_map",
    "action_type_map",
    "action_ref_map",
    "fb_ref",
    "__cft__[0]",
    "__tn__",
    "wt_mc",  # Webtrends, Webtrekk
    "wt.mc_id",
    "wt_zmc",
    "at_medium",
    "at_campaign",
    "xtor",
    "s_cid",
    "cmpid",
    "echobox",
    "os_ehash",
    "cjevent",  # CJ
    "cjdata",
    "irgwc",
    "awc",  # Awin
    "sznclid",  # Seznam
    "tblci",  # Taboola
    "dicbo",  # Outbrain
    "ob_click_id",
    "ck_subscriber_id",  # Kit
    "_bhlid",  # beehiiv
    "_ke",
    "tt_medium",
    "tt_content",
    "sms_ss",
    "sms_click",
    "__twitter_impression",
)


class Trackers:
    """Names and beginnings of names, in lower case."""

    def __init__(self, names: Iterable[str] = (), prefixes: Iterable[str] = ()) -> None:
        self.names, self.prefixes = frozenset(names), tuple(prefixes)

    def track(self, parameter: str) -> bool:
        """Whether `name=value` (or `name`) only tracks."""
        name = parameter.partition("=")[0].lower()
        return name in self.names or name.startswith(self.prefixes)

    def and_own(self, names: Iterable[str]) -> Trackers:
        """These, and those of a recipe: a `*` at the end of a name is any ending. Raises ConfigError on what is no name."""
        own = [name.lower() for name in names]
        for name in own:
            if not NAME.fullmatch(name):
                raise ConfigError(f"tracking_parameters: {name!r} is not the name of a parameter; write `ref_id`, or `ad_*` for a prefix")
        prefixes = (name.removesuffix("*") for name in own if name.endswith("*"))
        return Trackers(self.names.union(name for name in own if not name.endswith("*")), (*self.prefixes, *prefixes))


KNOWN = Trackers(NAMES, PREFIXES)
