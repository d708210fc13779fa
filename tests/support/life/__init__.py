"""The life of keys: random changes, made through the service and in a plain model of what each key may do."""
