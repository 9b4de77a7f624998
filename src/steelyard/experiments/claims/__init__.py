"""The paper's claims as experiments: each from a configuration that ships with the package, to a page."""

from steelyard.experiments.claims.reproduce import CLAIMS, ClaimConfig, claim_folder, read_claim_config, reproduce

__all__ = ["CLAIMS", "ClaimConfig", "claim_folder", "read_claim_config", "reproduce"]
