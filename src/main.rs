fn main() {
    sbx::jail::intercept();
}
