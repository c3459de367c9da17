"""What opens a door: private keys, keys of services in the forms that their makers document, passwords in links."""

from __future__ import annotations

import re

PRIVATE_KEY = re.compile(
    r"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----.*?"
    r"(?:-----END (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----|\Z)",
    re.DOTALL,
)
# User and password before the host of a link.
PASSWORD = re.compile(r"(?<=://)[^\s/:@<>]*:[^\s/@<>]+(?=@)")
# Each has a run of LONG_RUN letters, digits, - and _, which is how they are found in long texts.
LONG_RUN = 15
KEY_FORMS = (
    r"(?:AKIA|ASIA)[0-9A-Z]{16}",  # Amazon Web Services
    r"AIza[\w-]{35}", r"ya29\.[\w-]{20,}", r"GOCSPX-[\w-]{28}",  # Google
    r"gh[pousr]_[A-Za-z0-9]{36,}", r"github_pat_\w{22,}", r"glpat-[\w-]{20,}",  # GitHub, GitLab
    r"sk-[A-Za-z0-9_-]{20,}", r"gsk_[A-Za-z0-9]{40,}", r"xai-[A-Za-z0-9]{60,}",  # OpenAI and Anthropic, Groq, xAI
    r"hf_[A-Za-z]{34,}", r"r8_[A-Za-z0-9]{37}", r"pplx-[A-Za-z0-9]{40,}",  # Hugging Face, Replicate, Perplexity
    r"xox[abeposr]-[\w-]{10,}", r"xapp-[\w-]{20,}",  # Slack
    r"[sr]k_(?:live|test)_\w{16,}", r"whsec_\w{24,}", r"sq0[a-z]{3}-[\w-]{22,}",  # Stripe, Square
    r"SG\.[\w-]{16,}\.[\w-]{16,}", r"key-[0-9a-f]{32}", r"SK[0-9a-f]{32}",  # SendGrid, Mailgun, Twilio
    r"npm_[A-Za-z0-9]{36}", r"pypi-[\w-]{50,}", r"dckr_pat_[\w-]{20,}",  # npm, PyPI, Docker
    r"dop_v1_[0-9a-f]{64}", r"dapi[0-9a-f]{32}", r"hvs\.[\w-]{24,}",  # DigitalOcean, Databricks, Vault
    r"glsa_\w{32,}", r"shp(?:at|ca|pa|ss)_[0-9a-fA-F]{32}", r"lin_api_[A-Za-z0-9]{40}",  # Grafana, Shopify, Linear
    r"(?:ntn|secret)_[A-Za-z0-9]{40,}", r"ATATT3[\w=-]{20,}", r"\d{8,10}:AA[\w-]{33}",  # Notion, Atlassian, Telegram
    r"eyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]{8,}",  # JSON web tokens (RFC 7519)
)  # fmt: skip
# The key of an Azure storage account has no form of its own, but it is always given by name.
KEY = re.compile(rf"(?<![\w-])(?:{'|'.join(KEY_FORMS)})(?![\w-])|(?<=AccountKey=)[A-Za-z0-9+/]{{86}}==", re.ASCII)
