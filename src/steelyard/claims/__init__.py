"""The paper's claims as experiments: each from a configuration that ships with the package, to a page."""

from steelyard.claims.config import ClaimConfig
from steelyard.claims.reproduce import CLAIMS, claim_folder, read_claim_config, reproduce

__all__ = ["CLAIMS", "ClaimConfig", "claim_folder", "read_claim_config", "reproduce"]
