"""Every way in: the API, the operator's commands, the demo's mailbox and partner."""
