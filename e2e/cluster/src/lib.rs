//! A real Kubernetes control plane in one process tree: built from published modules, started, entered, ended.
