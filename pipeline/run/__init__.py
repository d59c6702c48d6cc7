"""The distributed run: plan -> spans -> actor pool -> parts -> receipts."""
