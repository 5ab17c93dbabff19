"""Tables: reading them, and making columns ready for a net."""
