"""The op table and the backends that implement it; which one is used is decided in fastcnn.backend."""
