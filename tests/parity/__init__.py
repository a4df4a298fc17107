"""This implementation beside the living peer: mmdetection itself, run in the same process on the same inputs."""
