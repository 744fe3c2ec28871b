"""Engine on a Ray cluster: deployments, handles and replicas."""
