"""ContextForge's plugins: what an operator's `plugins/config.yaml` does at the gateway, it does here."""
