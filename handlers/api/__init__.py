"""The Website Leads API."""
