"""Events over an MQTT 5 broker: edges verify webhooks and relay them, a core counts them, verdicts go out."""
